// Command bookinfo stands in for the six services of Istio's sample, docker.io/istio/examples-bookinfo-*, which cannot be
// had where the lab is built. It keeps their names, ports, paths, forwarded headers, environment variables, timeouts,
// texts and visible markers. Which service it is says its first argument; the second is the port.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var services = map[string]func(*http.ServeMux){
	"productpage": productpage,
	"details":     details,
	"ratings":     ratings,
	"reviews":     reviews,
}

const lameDuck = 3 * time.Second

func main() {
	if len(os.Args) != 3 || services[os.Args[1]] == nil {
		log.Fatal("usage: bookinfo productpage|details|ratings|reviews PORT")
	}
	mux := http.NewServeMux()
	services[os.Args[1]](mux)
	server := &http.Server{
		Addr:              ":" + os.Args[2],
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("%s %s %s", r.Method, r.URL, r.Header.Get("X-Request-Id"))
			mux.ServeHTTP(w, r)
		}),
	}
	// A pod that is being removed still gets requests until all proxies know of it, and finishes what it has begun: a
	// rollout then loses no request.
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	go func() {
		<-stop.Done()
		time.Sleep(lameDuck)
		grace, end := context.WithTimeout(context.Background(), 10*time.Second)
		defer end()
		server.Shutdown(grace)
	}()
	log.Printf("%s on %s", os.Args[1], server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stop.Done()
}

func writeJSON(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(content)
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
