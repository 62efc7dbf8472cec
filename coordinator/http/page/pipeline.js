/* The live view: /stats twice is a rate. */
const MINUTE = 60
const rates = []
let before = null

const number = (x, digits = 1) => x.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
const gigabytes = (x) => x >= 1e9 ? `${number(x / 1e9)} GB` : `${number(x / 1e6, 0)} MB`
const share = (x) => `${Math.round(100 * Math.min(Math.max(x, 0), 1))}%`

function make(name, className, ...inside) {
	const e = document.createElement(name)
	if (className) e.className = className
	e.append(...inside)
	return e
}

function makeStage(stage, k) {
	const bar = make('span'), figures = make('span'), busy = make('span'), again = make('span', 'again')
	const frame = make('div', 'bar', bar)
	frame.setAttribute('aria-hidden', 'true')
	const device = make('p', 'device', stage.description)
	device.title = stage.description
	const e = make('li', '',
		make('h3', '', make('span', '', `Stage ${k}: ${stage.device}`), make('span', '', `layers ${stage.layers.join('–')}`)),
		device, make('p', 'gauge', busy, figures), frame, make('p', 'gauge', make('span', '', gigabytes(stage.memory_bytes)), again))
	$('stages').append(e)
	return { bar, busy, figures, again }
}

let shown = { plan: '', stages: [] }

/* Stages are made anew where the plan is another: after a restart of the server, or where a
 * worker came back as something else. */
function stagesFor(now) {
	const plan = JSON.stringify(now.stages.map((s) => [s.device, s.description, s.layers, s.memory_bytes]))
	if (plan === shown.plan) return shown.stages
	$('stages').replaceChildren()
	shown = { plan, stages: now.stages.map(makeStage) }
	return shown.stages
}

function showStage(view, stage, old, seconds) {
	const busy = (stage.busy_us - old.busy_us) / 1e6 / seconds
	view.busy.textContent = `busy ${share(busy)}`
	view.bar.style.width = share(busy)
	view.figures.textContent = `${number((stage.rows - old.rows) / seconds, 0)} rows/s, ` +
		`${number((stage.steps - old.steps) * stage.weight_bytes / 1e9 / seconds)} GB/s`
	view.again.textContent = stage.restarts ? `started again ${stage.restarts} times` : ''
}

function showRate(rate) {
	rates.push(rate)
	if (rates.length > MINUTE) rates.shift()
	const peak = Math.max(...rates)
	$('rate').textContent = number(rate)
	$('peak').textContent = number(peak)
	$('spark').firstChild.setAttribute('points', rates.map((r, i) =>
		`${MINUTE - rates.length + i + .5},${19 - 18 * (peak ? r / peak : 0)}`).join(' '))
}

function showRates(now, old) {
	const seconds = (now.at_us - old.at_us) / 1e6
	const views = stagesFor(now)
	showRate((now.tokens.generated - old.tokens.generated) / seconds)
	let bytes = 0
	now.stages.forEach((stage, k) => {
		bytes += (stage.steps - old.stages[k].steps) * stage.weight_bytes / seconds
		showStage(views[k], stage, old.stages[k], seconds)
	})
	$('bytes').textContent = number(bytes / 1e9)
}

function showStats(now) {
	$('live').textContent = `${now.sequences.live} of ${now.sequences.most}`
	$('queued').textContent = now.sequences.queued
	$('guesses').textContent = now.guesses.proposed ?
		`${share(now.guesses.accepted / now.guesses.proposed)} of ${number(now.guesses.proposed, 0)} right` : 'none'
	$('kv').textContent = `${number(now.kv.held * now.kv.block_positions, 0)} of ` +
		`${number(now.kv.blocks * now.kv.block_positions, 0)} positions`
	$('kv-bar').style.width = share(now.kv.held / now.kv.blocks)
	stagesFor(now)
	/* A server that was started again counts from 0. */
	if (before && (now.at_us < before.at_us || now.tokens.generated < before.tokens.generated ||
		       now.stages.length !== before.stages.length)) before = null
	if (before && now.at_us === before.at_us) return
	if (before) showRates(now, before)
	before = now
}
