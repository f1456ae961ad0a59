# SPDX-License-Identifier: Apache-2.0
"""The models in a browser: an HTTP service, a page that talks to it, a view of the live node.

The way of an upload, and where to read on from each station:

- service: the command. application puts the service together; settings says what can be set.
- admission, access: what is turned away before it is read. uploads: bytes to pixels, checked.
- api: the routes. shelf: models, loaded with the first request. batching: the thread that runs
  them. answers: masks to PNG and JSON. problems: what went wrong, in one format.
- docs: the description as a page. parameters: what no route has is refused.
- page: the Streamlit page. live: what the node does now.
"""
