"""Bare machines without internet to a verified Kubernetes + Istio site."""
