package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// What the originals hand on from the request that they serve to the ones that they make: trace context, and what
// routes by user need.
var forwarded = []string{
	"x-request-id", "x-ot-span-context", "x-datadog-trace-id", "x-datadog-parent-id", "x-datadog-sampling-priority",
	"traceparent", "tracestate", "x-cloud-trace-context", "grpc-trace-bin", "x-b3-traceid", "x-b3-spanid",
	"x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "sw8", "end-user", "user-agent", "cookie", "authorization", "jwt",
}

// One connection a request, as the originals make it: without a sidecar, Kubernetes then balances requests and not
// only clients.
var transport = &http.Transport{DisableKeepAlives: true}

// ask gets JSON from another service: GET http://<service>:9080/<service>/<id>.
//
// It returns the status that was answered, 500 if nothing was.
func ask(service, id string, header http.Header, timeout time.Duration, content any) (int, error) {
	variable := strings.ToUpper(service)
	host := setting(variable+"_HOSTNAME", service)
	if domain := os.Getenv("SERVICES_DOMAIN"); domain != "" {
		host += "." + domain
	}
	url := fmt.Sprintf("http://%s:%s/%s/%s", host, setting(variable+"_SERVICE_PORT", "9080"), service, id)
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return http.StatusInternalServerError, err
	}
	for _, name := range forwarded {
		if value := header.Get(name); value != "" {
			request.Header.Set(name, value)
		}
	}
	client := &http.Client{Transport: transport, Timeout: timeout}
	reply, err := client.Do(request)
	if err != nil {
		return http.StatusInternalServerError, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return reply.StatusCode, fmt.Errorf("%s: %s", url, reply.Status)
	}
	if err := json.NewDecoder(reply.Body).Decode(content); err != nil {
		return http.StatusInternalServerError, fmt.Errorf("%s: %w", url, err)
	}
	return http.StatusOK, nil
}
