// The page of gempipe serve in a headless browser.
//   node page.mjs PLAYWRIGHT_FOLDER CHROMIUM URL URL_WITH_KEY KEY PID
// PID: of the first server, which the last check ends.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const [folder, executablePath, url, lockedUrl, key, pid] = process.argv.slice(2)
const { chromium } = createRequire(import.meta.url)(folder)
const args = ['--no-sandbox', '--disable-gpu']   // as root, without a GPU
const browser = await chromium.launch({ executablePath, args })
const COMPLETIONS = '**/v1/chat/completions'
const LESS_THAN = '67'                           // <0x3C> in the bundled vocabulary
const HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>&lt;b&gt;'

const wait = (ms) => new Promise((next) => setTimeout(next, ms))

// A page on which nothing goes wrong unseen: messages of the browser (a broken policy among
// them) and requests to anywhere else fail the check.
async function newPage(options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(30000)
  page.on('pageerror', (e) => page.wrongs.push(e.message))
  page.on('console', (m) => { if (m.type() === 'error' && !/status of 4|ERR_CONN|ERR_EMPTY|ERR_INCOMPLETE/.test(m.text())) page.wrongs.push(m.text()) })
  page.on('request', (r) => { if (!r.url().startsWith(page.where) && !r.url().startsWith('data:')) page.wrongs.push(r.url()) })
  return page
}

// Windows take their time; all checks that need no other share one, with nothing kept in it.
let shared = null
async function open(where = url, options = null) {
  const page = options ? await newPage(options) : shared ??= await newPage({})
  await page.unrouteAll({ behavior: 'ignoreErrors' })
  Object.assign(page, { where, wrongs: [] })
  await page.goto(where)
  await page.evaluate(() => { sessionStorage.clear(); localStorage.clear() })
  await page.reload()
  return page
}

async function close(page) {
  if (page !== shared) await page.context().close()
  assert.deepEqual(page.wrongs, [])
}

const answers = (page) => page.locator('#turns li > :nth-child(2) .text')
const idle = (page) => page.locator('#send').waitFor()

async function say(page, text) {
  await page.fill('#message', text)
  await page.press('#message', 'Enter')
}

const setting = (page, name, value) => page.locator(`#wishes [name=${name}]`).fill(String(value))

async function sent(page, act) {
  const [request] = await Promise.all([page.waitForRequest(COMPLETIONS), act()])
  return request.postDataJSON()
}

// What the model would say is chosen here; the page sees a stream all the same.
const forge = (page, pieces, end = 'data: [DONE]\n\n') => page.route(COMPLETIONS, (route) => route.fulfill({
  contentType: 'text/event-stream',
  body: pieces.map((content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`).join('') + end,
}))

const checks = {
  async headers() {
    const answer = await fetch(url), policy = answer.headers.get('content-security-policy')
    assert.match(policy, /default-src 'none'/)
    assert.ok(!policy.includes('unsafe'))
    assert.ok(!/https?:\/\/(?!www\.w3\.org)/.test(await answer.text()))
  },

  async streaming() {
    const page = await open()
    await setting(page, 'temperature', 0)
    await setting(page, 'max_tokens', 400)
    const box = await page.locator('#message').boundingBox()
    await say(page, 'Tell me of the king.')
    await page.waitForFunction(() => document.querySelector('.live .text')?.textContent.length > 20)
    const first = await answers(page).first().textContent()
    await idle(page)
    const whole = await answers(page).first().textContent()
    assert.ok(whole.startsWith(first) && whole.length > first.length)
    assert.match(await page.locator('.meta').first().textContent(), /limit of tokens · 400 tokens · .* tokens\/s/)
    assert.match(await page.textContent('#fill'), /^4\d\d of 8,192/)
    assert.deepEqual(await page.locator('#message').boundingBox(), box)
    const messages = [{ role: 'user', content: 'Tell me of the king.' }]
    const answer = await fetch(url + 'v1/chat/completions', {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: await page.textContent('#model'), messages, temperature: 0, max_tokens: 400 }),
    })
    assert.equal(whole, (await answer.json()).choices[0].message.content)
    await close(page)
  },

  async turns() {
    const page = await open()
    await setting(page, 'max_tokens', 8)
    await setting(page, 'system', 'Be short.')
    await say(page, 'One')
    await idle(page)
    const one = await answers(page).first().textContent()
    const body = await sent(page, () => say(page, 'Two'))
    assert.deepEqual(body.messages, [
      { role: 'system', content: 'Be short.' }, { role: 'user', content: 'One' },
      { role: 'assistant', content: one }, { role: 'user', content: 'Two' }])
    await idle(page)
    // A tab that is loaded again has its conversation back.
    await page.reload()
    assert.equal(await answers(page).first().textContent(), one)
    const again = await sent(page, () => page.getByRole('button', { name: 'Again' }).click())
    assert.deepEqual(again.messages, body.messages)
    await idle(page)
    await page.click('#new')
    assert.equal(await page.locator('#turns li').count(), 0)
    await close(page)
  },

  async stop() {
    const page = await open()
    await say(page, 'Tell me of the sea.')
    await page.waitForFunction(() => document.querySelector('.live .text')?.textContent)
    await page.click('#stop')
    await idle(page)
    const text = await answers(page).first().textContent()
    // The server has stopped too, and the page takes the next message.
    await page.waitForFunction(async () => (await (await fetch('/stats')).json()).sequences.live === 0)
    assert.equal(await answers(page).first().textContent(), text)
    await setting(page, 'max_tokens', 5)
    const body = await sent(page, () => say(page, 'Go on.'))
    assert.equal(body.messages[1].content, text)
    await idle(page)
    await close(page)
  },

  async settings() {
    const page = await open()
    const wish = { temperature: 0.5, top_k: 3, top_p: 0.7, min_p: 0.1, repeat_penalty: 1.1,
      presence_penalty: -0.5, frequency_penalty: 0.25, max_tokens: 6, seed: 42 }
    for (const [name, value] of Object.entries(wish)) await setting(page, name, value)
    await setting(page, 'stop', 'one\ntwo words')
    const body = await sent(page, () => say(page, 'Hello'))
    for (const [name, value] of Object.entries(wish)) assert.equal(body[name], value)
    assert.deepEqual(body.stop, ['one', 'two words'])
    await idle(page)
    const text = await answers(page).first().textContent()
    // Kept, and the same seed says the same.
    await page.reload()
    await page.click('#new')
    await say(page, 'Hello')
    await idle(page)
    assert.equal(await answers(page).first().textContent(), text)
    // What is not valid is not sent.
    await setting(page, 'top_p', 7)
    await say(page, 'Hello')
    assert.equal(await page.locator('#turns li').count(), 1)
    assert.equal(await page.evaluate(() => document.activeElement.name), 'top_p')
    await page.getByRole('button', { name: 'Defaults' }).click()
    assert.equal(await page.inputValue('[name=top_p]'), '0.95')
    await close(page)
  },

  async markup_is_text() {
    const page = await open()
    await forge(page, [...HOSTILE])
    await say(page, HOSTILE)
    await idle(page)
    for (const text of await page.locator('#turns .text').allTextContents()) assert.equal(text, HOSTILE)
    assert.equal(await page.locator('#turns :is(img, script, b)').count(), 0)
    await page.reload()
    for (const text of await page.locator('#turns .text').allTextContents()) assert.equal(text, HOSTILE)
    assert.equal(await page.title(), 'gempipe')
    // Even a page that did make markup of it would not be let to.
    assert.equal(await page.evaluate((s) => { try { document.body.innerHTML = s } catch { return 'refused' } }, HOSTILE), 'refused')
    page.wrongs = page.wrongs.filter((w) => !/TrustedHTML/.test(w))
    await close(page)
  },

  async markup_of_the_model() {
    const page = await open()
    await page.route(COMPLETIONS, (route) => route.continue({
      postData: JSON.stringify({ ...route.request().postDataJSON(), logit_bias: { [LESS_THAN]: 100 } }),
    }))
    await setting(page, 'max_tokens', 12)
    await say(page, 'Hello')
    await idle(page)
    assert.equal(await answers(page).first().textContent(), '<'.repeat(12))
    await close(page)
  },

  async keyboard() {
    const page = await open()
    const at = () => page.evaluate(() => document.activeElement.id || document.activeElement.name)
    assert.equal(await at(), 'message')
    await page.keyboard.type('First')
    await page.keyboard.press('Shift+Enter')
    await page.keyboard.type('second')
    const body = await sent(page, () => page.keyboard.press('Enter'))
    assert.equal(body.messages[0].content, 'First\nsecond')
    await page.keyboard.press('Escape')
    await idle(page)
    assert.equal(await at(), 'message')
    // Everything in the order in which it is seen, and to be seen where one is.
    const order = []
    await page.keyboard.press('Shift+Tab')
    for (let i = 0; i < 15; i++) {
      order.push(await at())
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'none')
      await page.keyboard.press('Tab')
    }
    assert.deepEqual(order.slice(-14), ['message', 'send', 'system', 'temperature', 'top_k', 'top_p', 'min_p',
      'repeat_penalty', 'presence_penalty', 'frequency_penalty', 'max_tokens', 'seed', 'stop', ''])
    await page.focus('#message')
    await page.keyboard.type('More')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.waitForFunction(() => document.querySelectorAll('#turns li').length === 2)
    assert.equal(await at(), 'stop')
    await page.keyboard.press('Enter')
    await idle(page)
    assert.equal(await at(), 'message')
    await close(page)
  },

  async names() {
    const page = await open()
    assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('input, textarea, button')]
      .filter((e) => !(e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)), [])
    assert.equal(await page.locator('[role=log]').count(), 1)
    await setting(page, 'max_tokens', 3)
    await say(page, 'Hello')
    await page.getByRole('status').filter({ hasText: 'Done.' }).waitFor()
    assert.equal(await page.getAttribute('.said.done', 'aria-busy'), 'false')
    await close(page)
  },

  async phone() {
    const page = await open(url, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true })
    await forge(page, ['W'.repeat(500), '\n', 'a '.repeat(200)])
    await page.fill('#message', 'Hello')
    await page.press('#message', 'Enter')           // a line's end, here
    assert.equal(await page.locator('#turns li').count(), 0)
    await page.tap('#send')
    await idle(page)
    for (const view of ['chat', 'pipeline', 'settings']) {
      await page.tap(`nav [data-show=${view}]`)
      await page.locator(`#${view}`).waitFor()
      for (const width of [390, 320]) {
        await page.setViewportSize({ width, height: 844 })
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${view} at ${width}`)
        const small = await page.evaluate(() => [...document.querySelectorAll('header button, #composer button')]
          .filter((e) => e.offsetHeight && e.offsetHeight < 44).map((e) => e.textContent))
        assert.deepEqual(small, [])
      }
    }
    await close(page)
  },

  async both_colours() {
    const seen = new Set(), page = await open()
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme })
      const [text, ground] = await page.evaluate(() => {
        const light = (c) => c.match(/\d+/g).slice(0, 3).map((v) => (v / 255) ** 2.2).reduce((a, v, i) => a + v * [.2126, .7152, .0722][i], .05)
        const { color, backgroundColor } = getComputedStyle(document.body)
        return [light(color), light(backgroundColor)]
      })
      assert.ok(Math.max(text, ground) / Math.min(text, ground) > 7)
      seen.add(text > ground)
    }
    await page.emulateMedia({ colorScheme: null })
    await close(page)
    assert.equal(seen.size, 2)
  },

  async live_view() {
    const page = await open()
    await page.locator('#stages li').nth(1).waitFor()
    assert.match(await page.locator('#stages').textContent(), /Stage 0: cpu.*layers 0–2.*Stage 1: cpu.*layers 3–5/)
    await say(page, 'Tell me everything.')
    await page.waitForFunction(() => Number(document.getElementById('rate').textContent) > 0 &&
      Number(document.getElementById('bytes').textContent) > 0 &&
      document.getElementById('live').textContent === '1 of 8')
    assert.match(await page.locator('#stages').textContent(), /busy [1-9]\d*%[1-9][\d,]* rows\/s, /)
    assert.match(await page.textContent('#kv'), /^[1-9].* of 65,536 positions/)
    await page.waitForFunction(() => /^\d+% of [1-9][\d,]* right$/.test(document.getElementById('guesses').textContent))
    await page.keyboard.press('Escape')
    await idle(page)
    await close(page)
  },

  async refusals() {
    const page = await open()
    await setting(page, 'seed', 1)
    await page.evaluate(() => { document.querySelector('[name=seed]').name = 'tools' })
    await say(page, 'Hello')
    await page.getByText("The server refuses this: 'tools' is not supported here").first().waitFor()
    await page.evaluate(() => { document.querySelector('[name=tools]').name = 'seed' })
    await setting(page, 'max_tokens', 3)
    const body = await sent(page, () => say(page, 'Hello again'))
    assert.equal(body.messages.length, 1)           // the refused turn is not part of it
    await idle(page)
    await close(page)
  },

  async cut_off() {
    const page = await open()
    await forge(page, ['Half an an'], '')
    await say(page, 'Hello')
    await page.locator('.failed', { hasText: 'Half an an' }).waitFor()
    await page.unroute(COMPLETIONS)
    await setting(page, 'max_tokens', 3)
    await page.getByRole('button', { name: 'Try again' }).click()
    await page.locator('.done').waitFor()
    assert.ok(!(await answers(page).first().textContent()).includes('Half'))
    await close(page)
  },

  async key() {
    for (const path of ['stats', 'metrics', 'v1/models']) assert.equal((await fetch(lockedUrl + path)).status, 401)
    const page = await open(lockedUrl)
    const dialog = page.getByRole('dialog', { name: 'This server needs a key' })
    await dialog.waitFor()
    assert.equal(await page.evaluate(() => document.activeElement.id), 'key')
    await page.keyboard.type('wrong')
    await page.keyboard.press('Enter')
    await dialog.getByText('does not know this key').waitFor()
    await page.keyboard.press('Escape')
    await dialog.waitFor({ state: 'hidden' })
    await page.locator('#state', { hasText: 'key needed' }).waitFor()
    await say(page, 'Hello')
    await page.getByLabel('API key').fill(key)
    await page.keyboard.press('Enter')
    await page.waitForFunction(() => document.querySelector('.live .text')?.textContent)
    await page.keyboard.press('Escape')
    await page.locator('#state', { hasText: 'ready' }).waitFor()
    // It lives as long as the tab.
    await page.reload()
    await page.locator('#state', { hasText: 'ready' }).waitFor()
    assert.equal(await dialog.isVisible(), false)
    assert.ok(!JSON.stringify(await page.evaluate(() => ({ ...localStorage }))).includes(key))
    await close(page)
  },

  // Ends the server: the last one.
  async server_gone() {
    const page = await open()
    await say(page, 'Tell me of the end.')
    await page.waitForFunction(() => document.querySelector('.live .text')?.textContent)
    process.kill(Number(pid), 'SIGKILL')
    await page.locator('.failed .meta', { hasText: 'The server does not answer.' }).waitFor()
    await page.getByRole('status').filter({ hasText: 'There is no answer.' }).waitFor()
    await page.locator('#state', { hasText: 'no server' }).waitFor()
    await say(page, 'Are you there?')
    await page.locator('.failed .meta', { hasText: 'The server does not answer.' }).nth(1).waitFor()
    await close(page)
  },
}

let failed = 0
for (const [name, check] of Object.entries(checks)) {
  const start = Date.now()
  try {
    await check()
    console.log(`ok - ${name} (${Date.now() - start} ms)`)
  } catch (e) {
    failed++
    console.log(`not ok - ${name}: ${e.stack}`)
  }
}
await Promise.race([browser.close(), wait(5000)])
console.log(`checks: ${Object.keys(checks).length - failed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)
