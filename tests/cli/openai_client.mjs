// The official client, as people use it, against a running server.
//   node openai_client.mjs CLIENT_FOLDER BASE_URL MODEL
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'

const [folder, baseURL, model] = process.argv.slice(2)
const { default: OpenAI } = await import(pathToFileURL(`${folder}/index.mjs`))
const client = new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 })
const messages = [
  { role: 'system', content: 'Be short.' },
  { role: 'user', content: [{ type: 'text', text: 'Tell me of the king.' }] },
]
const chat = { model, messages, max_tokens: 40, seed: 3, temperature: 0.8 }

const checks = {
  async models() {
    const names = []
    for await (const m of client.models.list()) names.push(m.id)
    assert.deepEqual(names, [model])
    assert.equal((await client.models.retrieve(model)).id, model)
    await assert.rejects(client.models.retrieve('gpt-4'), (e) => e.code === 'model_not_found')
  },
  async chat() {
    const answer = await client.chat.completions.create({ ...chat, n: 2, logprobs: true, top_logprobs: 2 })
    assert.equal(answer.object, 'chat.completion')
    assert.equal(answer.choices.length, 2)
    assert.equal(answer.choices[0].message.role, 'assistant')
    assert.ok(['stop', 'length'].includes(answer.choices[0].finish_reason))
    assert.ok(answer.choices[0].logprobs.content[0].top_logprobs[0].logprob <= 0)
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
  },
  async stream() {
    const whole = await client.chat.completions.create(chat)
    const stream = await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })
    let text = '', usage, finish
    for await (const piece of stream) {
      text += piece.choices[0]?.delta.content ?? ''
      finish = piece.choices[0]?.finish_reason ?? finish
      usage = piece.usage ?? usage
    }
    assert.equal(text, whole.choices[0].message.content)
    assert.equal(finish, whole.choices[0].finish_reason)
    assert.deepEqual(usage, whole.usage)
  },
  async helper() {
    const stream = client.chat.completions.stream(chat)
    let text = ''
    stream.on('content', (delta) => { text += delta })
    const final = await stream.finalChatCompletion()
    assert.equal(text, final.choices[0].message.content)
  },
  async completions() {
    const whole = await client.completions.create({ model, prompt: 'In the beginning', max_tokens: 20, temperature: 0 })
    let text = ''
    const stream = await client.completions.create({ model, prompt: 'In the beginning', max_tokens: 20, temperature: 0, stream: true })
    for await (const piece of stream) text += piece.choices[0].text
    assert.equal(text, whole.choices[0].text)
    assert.equal(whole.usage.completion_tokens, 20)
  },
  async together() {
    const one = await client.chat.completions.create(chat)
    const many = await Promise.all(Array.from({ length: 8 }, () => client.chat.completions.create(chat)))
    for (const m of many) assert.equal(m.choices[0].message.content, one.choices[0].message.content)
  },
  async logprobs() {
    const answer = await client.completions.create({ model, prompt: 'In the beginning', max_tokens: 5, logprobs: 2 })
    const { tokens, text_offset } = answer.choices[0].logprobs
    assert.equal(tokens.length, text_offset.length)
    assert.equal(text_offset[0], 0)
  },
  async refusals() {
    await assert.rejects(client.chat.completions.create({ ...chat, tools: [] }),
      (e) => e instanceof OpenAI.BadRequestError && e.message.includes("'tools'"))
    await assert.rejects(client.chat.completions.create({ ...chat, model: 'gpt-4' }), OpenAI.NotFoundError)
    await assert.rejects(client.chat.completions.create({ ...chat, n: 99 }), (e) => e.param === 'n')
    await assert.rejects(client.completions.create({ model, prompt: 'word '.repeat(20000) }),
      (e) => e.code === 'context_length_exceeded' && e.param === 'prompt')
  },
  async abort() {
    const stream = await client.chat.completions.create({ ...chat, max_tokens: 4000, stream: true })
    for await (const piece of stream) if (piece.choices[0]?.delta.content) break
    stream.controller.abort()
    await checks.completions()
  },
}

let failed = 0
for (const [name, check] of Object.entries(checks)) {
  try {
    await check()
    console.log(`ok - ${name}`)
  } catch (e) {
    failed++
    console.log(`not ok - ${name}: ${e.stack}`)
  }
}
console.log(`checks: ${Object.keys(checks).length - failed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)
