'use strict'
/* What is asked of the server, with a key where it wants one. */
const $ = (id) => document.getElementById(id)

/* Storage that a browser refuses is storage that is empty. */
function recall(store, name) {
	try { return window[store].getItem(`gempipe.${name}`) } catch { return null }
}
function keep(store, name, value) {
	try { window[store].setItem(`gempipe.${name}`, value) } catch { /* it is kept for now only */ }
}

/* What the server said against a request, in its own words. */
class Refusal extends Error {}

let key = recall('sessionStorage', 'key') ?? ''
let entering = null   /* one dialog, however many ask for it */

function enterKey(why) {
	entering ??= new Promise((resolve, reject) => {
		$('key-note').textContent = why
		$('ask-key').showModal()
		$('ask-key').onclose = () => {
			const given = $('key').value
			entering = null
			$('key').value = ''
			if (given) resolve()
			else reject(new Refusal('The server needs a key.'))
		}
	})
	return entering
}

$('key-form').addEventListener('submit', (e) => {
	e.preventDefault()
	const typed = $('key').value.trim()
	if (!/^[\x20-\x7e]+$/.test(typed)) {
		$('key-note').textContent = 'A key is a line of letters, digits and signs.'
		return
	}
	key = typed
	keep('sessionStorage', 'key', key)
	$('ask-key').close()
})
for (const what of ['no-key', 'ask-key'])
	$(what).addEventListener(what === 'no-key' ? 'click' : 'cancel', () => {
		$('key').value = ''
		$('ask-key').close()
	})

/* path: relative, for a proxy may have put the page below another one. quietly: no dialog. */
async function ask(path, options = {}, quietly = false) {
	for (;;) {
		const used = key
		const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) }
		const answer = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit' })
		if (answer.status !== 401) return answer
		if (quietly) throw new Refusal('The server needs a key.')
		if (key === used) await enterKey(used ? 'The server does not know this key.' : '')
	}
}

async function refusalOf(answer) {
	try {
		return new Refusal(`The server refuses this: ${(await answer.json()).error.message}`)
	} catch {
		return new Refusal(`The server answers with status ${answer.status}.`)
	}
}

async function askJson(path, quietly) {
	const answer = await ask(path, { signal: quietly ? AbortSignal.timeout(5000) : undefined }, quietly)
	if (!answer.ok) throw await refusalOf(answer)
	return answer.json()
}

/* The events of a stream. One that ends without its end is broken. */
async function* eventsOf(answer) {
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
	let rest = ''
	try {
		for (;;) {
			const { value, done } = await reader.read()
			if (done) throw new Error('cut off')
			const parts = (rest + value).split('\n\n')
			rest = parts.pop()
			for (const part of parts) {
				if (part === 'data: [DONE]') return
				if (part.startsWith('data: ')) yield JSON.parse(part.slice(6))
			}
		}
	} finally {
		reader.cancel().catch(() => {})   /* what nobody reads, the server stops */
	}
}
