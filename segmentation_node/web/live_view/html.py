# SPDX-License-Identifier: Apache-2.0
"""HTML of the live view; it loads nothing from other servers."""

import json
from html import escape
from string import Template
from typing import Final

from segmentation_node.labels import load_scheme
from segmentation_node.web.page.translations import Words

#: Rows of the table, as keys of the diagnostics.
ROWS: Final = (
    'message', 'model', 'in_rate_hz', 'out_rate_hz', 'latency_p50_ms', 'latency_p99_ms',
    'received', 'published', 'superseded', 'malformed', 'failed', 'not_wanted', 'out_of_domain',
    'domain_distance', 'domain_threshold', 'last_error',
)  # fmt: skip

_PAGE: Final = Template("""<!doctype html>
<html lang="$lang">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$live_title</title>
<style>
body {font: 16px/1.5 sans-serif; color: #1c2026; background: #fff; margin: 1rem auto;
  max-width: 80rem; padding: 0 1rem}
#cameras {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 44rem));
  gap: 1rem}
figure {margin: 0}
img {width: 100%; border: 1px solid #7a828c; background: #e8eaed; min-height: 8rem}
button {font: inherit; padding: .4rem 1rem}
.scroll {overflow-x: auto}
table {border-collapse: collapse; font-variant-numeric: tabular-nums}
caption {text-align: left; font-weight: 600; padding: .8rem 0 .3rem}
.scores {border: 1px solid #b4bac2; border-top: 0; padding: .6rem .8rem}
.scores:empty {display: none}
.scores dl {display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .4rem .8rem; margin: 0}
.scores dt {font-size: .85rem; color: #4a525c}
.scores dd {margin: 0; font-variant-numeric: tabular-nums}
.scores dd b {font-size: 1.5rem; font-weight: 600; line-height: 1.2}
.scores dd small {display: block; font-size: .8rem; color: #4a525c}
.scores svg {width: 100%; height: 2rem; display: block}
.scores polyline {fill: none; stroke: #0b62a4; stroke-width: 1.5;
  vector-effect: non-scaling-stroke}
.scores table {width: 100%; margin-top: .4rem; font-size: .9rem}
.scores th, .scores td {padding: .1rem .4rem .1rem 0; border: 0; font-weight: 400}
.scores caption {padding: .3rem 0 0}
.scores td:nth-child(2) {width: 60%}
.scores td:last-child {text-align: right}
.bar {height: .7rem; background: #e8eaed}
.bar i {display: block; height: 100%; background: #0b62a4}
.problem {margin: .4rem 0 0; color: #a12121; overflow-wrap: anywhere}
th, td {border-bottom: 1px solid #b4bac2; padding: .3rem .8rem; text-align: left}
</style>
</head>
<body>
<main>
<h1>$live_title</h1>
<p>$live_lead</p>
$back
<p><button id="pause" type="button" aria-pressed="false">$live_pause</button></p>
<p id="state" role="status">$live_waiting</p>
<div id="cameras"></div>
<div id="counts" class="scroll" hidden tabindex="0" role="region" aria-label="$live_accounts">
<table><caption>$live_accounts</caption>
<thead><tr id="nodes"><th scope="col">$live_row</th></tr></thead><tbody id="rows"></tbody></table>
</div>
<p id="note" hidden>$live_note</p>
</main>
<script>
const words = $words, rows = $rows
const cameras = document.getElementById('cameras'), state = document.getElementById('state')
const pause = document.getElementById('pause')
const counts = [document.getElementById('counts'), document.getElementById('note')]
let source = null, shown = null

function showCameras(names) {
  if (names.join() === shown) return
  shown = names.join()
  cameras.replaceChildren(...names.map(name => {
    const figure = document.createElement('figure')
    const image = document.createElement('img')
    image.alt = words.live_alt.replace('{camera}', name)
    image.src = 'live/stream?camera=' + encodeURIComponent(name)
    const caption = document.createElement('figcaption')
    caption.textContent = name
    const scores = document.createElement('div')
    scores.className = 'scores'
    figure.dataset.camera = name
    figure.append(image, caption, scores)
    return figure
  }))
  state.textContent = names.length ? '' : words.live_none
}

function cell(kind, text, scope) {
  const element = document.createElement(kind)
  element.textContent = text
  if (scope) element.scope = scope
  return element
}

function showNodes(nodes) {
  for (const part of counts) part.hidden = !nodes.length
  const head = document.getElementById('nodes')
  head.replaceChildren(head.firstElementChild, ...nodes.map(n => cell('th', n.name, 'col')))
  document.getElementById('rows').replaceChildren(...rows.map(key => {
    const row = document.createElement('tr')
    row.append(cell('th', words['live_' + key], 'row'),
      ...nodes.map(n => cell('td', n[key] || '-')))
    return row
  }))
}

const percent = new Intl.NumberFormat(document.documentElement.lang,
  {style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1})
const decimal = new Intl.NumberFormat(document.documentElement.lang, {maximumFractionDigits: 2})
const signed = new Intl.NumberFormat(document.documentElement.lang,
  {maximumFractionDigits: 3, signDisplay: 'exceptZero'})
const known = value => typeof value === 'number'
// Values of the newest frames by camera and signal.
const measured = {}

function remember(camera, frames) {
  const past = measured[camera] ||=
    {last: '', confidence: [], domain_distance: [], consistency: []}
  for (const frame of frames) {
    const stamp = [frame.stamp.sec, frame.stamp.nanosec].join()
    if (stamp === past.last) continue
    past.last = stamp
    for (const signal of ['confidence', 'domain_distance', 'consistency']) {
      if (known(frame[signal])) past[signal] = [...past[signal], frame[signal]].slice(-200)
    }
  }
  return past
}

function sparkline(values) {
  const space = 'http://www.w3.org/2000/svg'
  const svg = document.createElementNS(space, 'svg')
  const line = document.createElementNS(space, 'polyline')
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1
  const place = (v, i) => [100 * i / (values.length - 1 || 1), 28 - 26 * (v - low) / span].join()
  svg.setAttribute('viewBox', '0 0 100 30')
  svg.setAttribute('preserveAspectRatio', 'none')
  svg.setAttribute('aria-hidden', 'true')
  line.setAttribute('points', values.map(place).join(' '))
  svg.append(line)
  return svg
}

function tile(label, value, note, values) {
  const group = document.createElement('div'), data = document.createElement('dd')
  data.append(cell('b', value), cell('small', note))
  if (values && values.length > 1) data.append(sparkline(values))
  group.append(cell('dt', label), data)
  return group
}

function truthTiles(truth) {
  if (!truth || !truth.window) return []
  return ['miou', 'pixel_accuracy'].filter(key => known(truth.window[key])).map(key =>
    tile(words['live_' + key], percent.format(truth.window[key]),
      words.live_in_total.replace('{value}', percent.format(truth.total[key]))
        .replace('{frames}', truth.total.frames)))
}

function signalTiles(scores, past) {
  return ['confidence', 'consistency', 'domain_distance'].filter(key => known(scores[key].mean))
    .map(key => {
      const share = key !== 'domain_distance', {mean, trend, threshold} = scores[key]
      const note = known(threshold)
        ? words.live_limit.replace('{value}', decimal.format(threshold))
        : words.live_trend.replace('{value}', known(trend) ? signed.format(trend) : '-')
      const value = share ? percent.format(mean) : decimal.format(mean)
      return tile(words['live_mean_' + key], value, note, past[key])
    })
}

function classTable(truth) {
  if (!truth || !truth.window) return []
  const table = document.createElement('table')
  table.append(cell('caption', words.live_class_iou.replace('{frames}', truth.window.frames)))
  for (const [name, iou] of Object.entries(truth.window.class_iou)) {
    if (!known(iou)) continue
    const row = table.insertRow()
    const bar = document.createElement('div'), filled = document.createElement('i')
    bar.className = 'bar'
    filled.style.width = 100 * iou + '%'
    bar.append(filled)
    row.append(cell('th', words['class_' + name] || name, 'row'))
    row.insertCell().append(bar)
    row.insertCell().textContent = percent.format(iou)
  }
  return [table]
}

function showScores(all) {
  for (const figure of cameras.children) {
    const scores = all[figure.dataset.camera]
    if (!scores) continue
    const past = remember(figure.dataset.camera, scores.frames)
    const list = document.createElement('dl')
    list.append(...truthTiles(scores.truth), ...signalTiles(scores, past))
    const parts = list.children.length ? [list, ...classTable(scores.truth)] : []
    if (scores.problem) {
      const problem = cell('p', words.live_problem.replace('{detail}', scores.problem))
      problem.className = 'problem'
      parts.push(problem)
    }
    figure.querySelector('.scores').replaceChildren(...parts)
  }
}

// A failed stream has no reason; the list of cameras does.
async function showError() {
  state.textContent = words.live_lost
  shown = null
  cameras.replaceChildren()
  const response = await fetch('live/cameras').catch(() => null)
  if (!response || response.ok || !source) return
  const problem = await response.json().catch(() => ({type: ''}))
  const kind = problem.type.split(':').pop()
  const refused = words.live_refused.replace('{detail}', problem.detail)
  state.textContent = words['live_' + kind] || refused
}

// A hidden page closes its streams, so that the node computes nothing for it.
function updateStream() {
  const watching = !document.hidden && pause.getAttribute('aria-pressed') === 'false'
  if (watching && !source) {
    source = new EventSource('live/events')
    source.onmessage = event => {
      const update = JSON.parse(event.data)
      showCameras(update.cameras)
      if (update.nodes) showNodes(update.nodes)
      if (update.scores) showScores(update.scores)
    }
    source.onerror = showError
  } else if (!watching && source) {
    source.close()
    source = null
    shown = null
    for (const image of cameras.querySelectorAll('img')) image.src = 'data:,'
    cameras.replaceChildren()
    state.textContent = words.live_paused
  }
}

pause.addEventListener('click', () => {
  const paused = pause.getAttribute('aria-pressed') === 'true'
  pause.setAttribute('aria-pressed', String(!paused))
  updateStream()
})
document.addEventListener('visibilitychange', updateStream)
updateStream()
</script>
</body>
</html>
""")

_HTML_KEYS: Final = (
    'live_title', 'live_lead', 'live_pause', 'live_waiting', 'live_accounts', 'live_row',
    'live_note',
)  # fmt: skip
_SCRIPT_KEYS: Final = (
    'live_alt', 'live_none', 'live_lost', 'live_paused', 'live_refused', 'live_no-ros',
    'live_busy', 'live_unauthorized', 'live_miou', 'live_pixel_accuracy', 'live_in_total',
    'live_limit', 'live_trend', 'live_class_iou', 'live_problem', 'live_mean_confidence',
    'live_mean_consistency', 'live_mean_domain_distance', *(f'live_{row}' for row in ROWS),
    *(f'class_{c.name}' for c in load_scheme('cityscapes8').classes),
)  # fmt: skip


def live_page(language: str, page_url: str = '') -> str:
    """Return the page in one of LANGUAGES; with `page_url`, it links back to the page."""
    words = Words(language)
    # Escapes end tags, which would end the script.
    script_words = json.dumps({key: words.raw(key) for key in _SCRIPT_KEYS}).replace(
        '<', '\\u003c'
    )
    html_words = {key: escape(words(key)) for key in _HTML_KEYS}
    address = escape(f'{page_url}/?lang={language}')
    back = f'<p><a href="{address}">{escape(words("live_back"))}</a></p>' if page_url else ''
    return _PAGE.substitute(
        back=back, lang=language, words=script_words, rows=json.dumps(ROWS), **html_words
    )
