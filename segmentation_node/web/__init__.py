# SPDX-License-Identifier: Apache-2.0
"""The models in a browser: an HTTP service, a page that uses it, and a live view of the node.

A request passes through these modules, in this order:

- service: the command. service_settings: all settings. application: assembly of the service.
- connections, admission, api_key: limits and access, checked before a body is read.
- api: the routes. unknown_fields: rejects parameters that a route does not have.
- uploads, predictor, capacity: decoding in threads, with a bounded number of images in progress.
- batching: the thread that runs the networks. model_cache: models, loaded on first use.
- responses: results as JSON and PNG. problems: errors in one format. monitoring: metrics.
- swagger_ui: interactive API documentation.

page is the Streamlit page, live_view the view of the running node.
"""
