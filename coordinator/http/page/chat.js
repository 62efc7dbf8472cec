/* The conversation. What a model or a user wrote is text and stays text: it only ever
 * becomes the content of text nodes. */
let model = null
let turns = []            /* { user, text, state: live | done | stopped | failed, view } */
let running = null        /* the answer in the making */

const NO_SERVER = 'The server does not answer. Does gempipe serve still run, and can this device reach it?'

function setState(state, text) {
	if ($('state').dataset.state === state) return
	$('state').dataset.state = state
	$('state').textContent = text
}

function note(text, wrong = false) {
	$('note').textContent = text
	$('note').classList.toggle('wrong', wrong)
}

async function learnModel(quietly) {
	const found = (await askJson('v1/models', quietly)).data[0]
	model = found
	$('model').textContent = $('model').title = found.id
}

/* ---- settings */
const wishes = $('wishes')

function body(turn) {
	const wish = { model: model.id, messages: [], stream: true, stream_options: { include_usage: true } }
	for (const e of wishes.elements) {
		if (!e.name || !e.value.trim()) continue
		if (e.name === 'system') wish.messages.push({ role: 'system', content: e.value })
		else if (e.name === 'stop') wish.stop = e.value.split('\n').filter((s) => s)
		else wish[e.name] = Number(e.value)
	}
	for (const t of turns) {
		if (t !== turn && t.state === 'failed') continue
		wish.messages.push({ role: 'user', content: t.user })
		if (t === turn) break
		wish.messages.push({ role: 'assistant', content: t.text })
	}
	return JSON.stringify(wish)
}

function keepSettings() {
	keep('localStorage', 'settings', JSON.stringify(Object.fromEntries(
		[...wishes.elements].filter((e) => e.name).map((e) => [e.name, e.value]))))
}
wishes.addEventListener('input', keepSettings)
wishes.addEventListener('reset', () => setTimeout(keepSettings))
wishes.addEventListener('submit', (e) => e.preventDefault())

function recallSettings() {
	const kept = JSON.parse(recall('localStorage', 'settings') ?? '{}')
	for (const e of wishes.elements)
		if (e.name && typeof kept[e.name] === 'string') e.value = kept[e.name]
}

/* ---- what is seen */
const isAtEnd = () => $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 48
const goToEnd = () => { $('log').scrollTop = $('log').scrollHeight }

function link(text, act) {
	const b = make('button', 'link', text)
	b.type = 'button'
	b.addEventListener('click', act)
	return b
}

function addView(turn) {
	const text = document.createTextNode(turn.text)
	const meta = make('span'), buttons = make('span')
	const answer = make('div', 'said', make('h3', '', 'Model'), make('div', 'text', text),
		make('div', 'meta', meta, buttons))
	const user = make('div', 'said user', make('h3', '', 'You'), make('div', 'text', turn.user))
	const item = make('li', '', user, answer)
	for (const e of item.querySelectorAll('.text')) e.dir = 'auto'
	$('turns').append(item)
	turn.view = { text, answer, meta, buttons, frame: null }
}

function showState(turn) {
	const { answer, meta, buttons } = turn.view
	answer.className = `said ${turn.state}`
	answer.setAttribute('aria-busy', turn.state === 'live')
	meta.textContent = turn.state === 'live' ? '' : [turn.why, turn.figures].filter(Boolean).join(' · ')
	buttons.replaceChildren()
	if (turn.state === 'live') return
	if (turn.text && navigator.clipboard) buttons.append(link('Copy', () => copy(turn)))
	if (turn === turns.at(-1)) buttons.append(link(turn.state === 'failed' ? 'Try again' : 'Again', () => again(turn)))
}

async function copy(turn) {
	try {
		await navigator.clipboard.writeText(turn.text)
		note('Copied.')
	} catch {
		note('The browser did not let the text be copied.', true)
	}
}

function showAll() {
	$('empty').hidden = turns.length > 0
	$('send').hidden = Boolean(running)
	$('stop').hidden = !running
}

function keepTurns() {
	keep('sessionStorage', 'turns', JSON.stringify(turns.map(({ user, text, state, why, figures }) =>
		({ user, text, state: state === 'live' ? 'stopped' : state, why, figures }))))
}

function recallTurns() {
	turns = JSON.parse(recall('sessionStorage', 'turns') ?? '[]')
	turns.forEach(addView)
	turns.forEach(showState)
}

/* ---- an answer */

/* Once a frame, however many tokens come in it. */
function showSoon(turn) {
	turn.view.frame ??= requestAnimationFrame(() => showText(turn))
}

function showText(turn) {
	const { view } = turn, follow = isAtEnd()
	if (view.frame) cancelAnimationFrame(view.frame)
	view.frame = null
	view.text.appendData(turn.text.slice(view.text.length))
	if (follow) goToEnd()
}

function take(turn, event, times) {
	if (event.error) throw new Refusal(event.error.message)
	const choice = event.choices[0]
	if (choice?.delta.content) {
		times.last = performance.now()
		times.first ??= times.last
		turn.text += choice.delta.content
		showSoon(turn)
	}
	if (choice?.finish_reason === 'length') turn.why = 'cut at the limit of tokens'
	if (event.usage) describe(turn, event.usage, times)
}

function describe(turn, usage, times) {
	const n = usage.completion_tokens, ms = times.last - times.first
	turn.figures = `${n} tokens`
	if (n > 2 && ms > 0) turn.figures += ` · ${number((n - 1) * 1000 / ms)} tokens/s`
	if (times.first) turn.figures += ` · first after ${number((times.first - times.begin) / 1000, 2)} s`
	$('fill').textContent = `${number(usage.total_tokens, 0)} of ${number(model.context_length, 0)} positions used`
}

async function stream(turn, signal) {
	const times = { begin: performance.now() }
	if (!model) await learnModel(false)
	const answer = await ask('v1/chat/completions', {
		method: 'POST', headers: { 'Content-Type': 'application/json' }, body: body(turn), signal,
	})
	if (!answer.ok) throw await refusalOf(answer)
	for await (const event of eventsOf(answer)) take(turn, event, times)
}

function failed(turn, e, signal) {
	if (signal.aborted) {
		turn.state = 'stopped'
		turn.why = 'stopped'
		return
	}
	turn.state = 'failed'
	turn.why = e instanceof Refusal ? e.message : NO_SERVER
}

async function answer(turn) {
	const control = running = new AbortController()
	Object.assign(turn, { text: '', state: 'live', why: '', figures: '' })
	turn.view.text.data = ''
	turns.forEach(showState)
	showAll()
	goToEnd()
	note('The model answers. Esc stops it.')
	try {
		await stream(turn, control.signal)
		turn.state = 'done'
	} catch (e) {
		failed(turn, e, control.signal)
	}
	if (running !== control) return   /* a new chat has begun */
	finish(turn)
}

function finish(turn) {
	const follow = isAtEnd(), focused = document.activeElement === $('stop')
	running = null
	showText(turn)
	showState(turn)
	showAll()
	keepTurns()
	note({ done: 'Done.', stopped: 'Stopped.', failed: 'There is no answer.' }[turn.state], turn.state === 'failed')
	if (focused) $('message').focus()
	if (follow) goToEnd()
}

function again(turn) {
	if (running || !areWishesValid()) return
	$('message').focus()
	answer(turn)
}

/* ---- what is done with it */
function show(view) {
	document.body.dataset.view = view
	for (const b of document.querySelectorAll('nav button'))
		b.setAttribute('aria-pressed', b.dataset.show === view)
}

function areWishesValid() {
	if (wishes.checkValidity()) return true
	show('settings')
	note('A setting is not valid.', true)
	wishes.reportValidity()
	return false
}

function send() {
	const user = $('message').value.trim()
	if (running || !user || !areWishesValid()) return
	const focused = document.activeElement === $('send')
	const turn = { user, text: '', state: 'live' }
	turns.push(turn)
	addView(turn)
	$('message').value = ''
	answer(turn)
	if (focused) $('stop').focus()
}

function startOver() {
	running?.abort()
	running = null
	turns = []
	$('turns').replaceChildren()
	$('fill').textContent = ''
	note('')
	showAll()
	keepTurns()
	show('chat')
	$('message').focus()
}

for (const b of document.querySelectorAll('nav button'))
	b.addEventListener('click', () => show(b.dataset.show))
$('new').addEventListener('click', startOver)
$('stop').addEventListener('click', () => running?.abort())
$('composer').addEventListener('submit', (e) => { e.preventDefault(); send() })
/* On a phone Enter is how a line ends. */
const enterSends = !matchMedia('(pointer: coarse)').matches
$('message').addEventListener('keydown', (e) => {
	if (e.key !== 'Enter' || e.shiftKey || e.isComposing || !enterSends) return
	e.preventDefault()
	send()
})
document.addEventListener('keydown', (e) => {
	if (e.key === 'Escape' && !$('ask-key').open) running?.abort()
})

/* ---- the server, all the time */
async function look() {
	try {
		if (!model || $('state').dataset.state === 'gone') await learnModel(true)
		showStats(await askJson('stats', true))
		setState('ready', 'ready')
	} catch (e) {
		if (e instanceof Refusal) setState('refused', 'key needed')
		else setState('gone', 'no server')
	}
}

async function watch() {
	for (;;) {
		if (!document.hidden) await look()
		await new Promise((next) => setTimeout(next, 1000))
	}
}

function begin() {
	try {
		recallSettings()
		recallTurns()
	} catch { /* written by another version */ }
	showAll()
	goToEnd()
	if (enterSends) $('message').focus()
	learnModel(false).catch(() => {}).finally(watch)
}
begin()
