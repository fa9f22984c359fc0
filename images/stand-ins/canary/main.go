// Command canary stands in for the tutorial's xianchao/canary:v1 and :v2, which cannot be had where the lab is built: it
// answers every path on port 80 with one line, canary-v1 or canary-v2, by its argument.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const lameDuck = 3 * time.Second

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: canary VERSION (v1 or v2)")
	}
	line := "canary-" + os.Args[1] + "\n"
	server := &http.Server{
		Addr:              ":80",
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprint(w, line)
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
	log.Printf("answering %q on %s", line, server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stop.Done()
}
