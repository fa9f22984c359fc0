// Command tomcat-app stands in for the tutorial's kubeguide/tomcat-app:v1, which cannot be had where the lab is built: it
// answers every path with a page that names Tomcat, and writes one line a request. Its argument is the port.
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

const page = `<!DOCTYPE html>
<html>
<head><title>Apache Tomcat</title></head>
<body><h2>If you're seeing this, you've successfully installed Tomcat. Congratulations!</h2></body>
</html>
`

const lameDuck = 3 * time.Second

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: tomcat-app PORT")
	}
	server := &http.Server{
		Addr:              ":" + os.Args[1],
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("%s %s", r.Method, r.URL)
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, page)
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
	log.Printf("tomcat-app on %s", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stop.Done()
}
