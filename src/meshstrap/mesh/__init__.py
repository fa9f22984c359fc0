"""What Istio and Envoy say: version rules, proxy configuration, stats, access log."""
