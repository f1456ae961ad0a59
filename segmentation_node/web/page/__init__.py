# SPDX-License-Identifier: Apache-2.0
"""The page: compare the models on a picture of one's own, and read how they were trained.

main is the script that Streamlit runs; it shows one of the views data, scores and compare. texts
has every word in English and French. client asks the service; runs reads what training left;
picture and results are the two halves of compare, samples the pictures that it offers. markup,
charts and patterns make what is shown.
"""
