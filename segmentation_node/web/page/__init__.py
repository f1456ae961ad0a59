# SPDX-License-Identifier: Apache-2.0
"""The Streamlit page: compare the models on a picture, and view how they were trained.

main is the script that Streamlit runs. It shows one of three views: compare_view, with
picture_section and results_section, data_view, or training_view.

- service_client: requests to the service. training_runs, mlflow_access: training metrics.
- translations: all texts, in English and French.
- markup, epoch_chart, patterns, choice, class_shares: building blocks of the views.
- sample_pictures: pictures to try the models on.
"""
