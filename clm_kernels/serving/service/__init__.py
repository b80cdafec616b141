"""Classifiers over HTTP: `make_app` gives an ASGI application, ``clm-kernels serve`` runs it."""
