# SPDX-License-Identifier: Apache-2.0
"""HTML of the live view; it loads nothing from other servers."""

import json
from html import escape
from string import Template
from typing import Final

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
    figure.append(image, caption)
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
    'live_busy', 'live_unauthorized', *(f'live_{row}' for row in ROWS),
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
