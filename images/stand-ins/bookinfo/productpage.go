package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"log"
	"net/http"
	"time"
)

//go:embed productpage.html
var pageSource string

//go:embed bookinfo.css
var styleSheet string

var page = template.Must(template.New("productpage").Funcs(template.FuncMap{
	"upTo": func(n int) []struct{} { return make([]struct{}, max(n, 0)) },
	"rest": func(n int) []struct{} { return make([]struct{}, max(5-n, 0)) },
}).Parse(pageSource))

type product struct {
	ID          int           `json:"id"`
	Title       string        `json:"title"`
	Description template.HTML `json:"descriptionHtml"`
}

var book = product{0, "The Comedy of Errors", "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: " +
	"The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his most " +
	"farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to puns " +
	"and word play."}

const patience = 3 * time.Second

func productpage(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "Product page is healthy")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/productpage", http.StatusFound)
	})
	mux.HandleFunc("GET /static/bookinfo.css", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		fmt.Fprint(w, styleSheet)
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: r.FormValue("username"), Path: "/", HttpOnly: true})
		http.Redirect(w, r, "/productpage", http.StatusFound)
	})
	mux.HandleFunc("GET /logout", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Path: "/", MaxAge: -1})
		http.Redirect(w, r, "/productpage", http.StatusFound)
	})
	mux.HandleFunc("GET /productpage", showBook)
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, []product{book})
	})
	for path, service := range map[string]string{"": "details", "/reviews": "reviews", "/ratings": "ratings"} {
		mux.HandleFunc("GET /api/v1/products/{id}"+path, func(w http.ResponseWriter, r *http.Request) {
			status, content := fetch(service, r.PathValue("id"), headers(r), &map[string]any{})
			writeJSON(w, status, content)
		})
	}
}

func showBook(w http.ResponseWriter, r *http.Request) {
	id := fmt.Sprint(book.ID)
	header := headers(r)
	detailsStatus, detailsContent := fetch("details", id, header, &map[string]any{})
	reviewsStatus, reviewsContent := fetch("reviews", id, header, &reviewsOf{})
	var out bytes.Buffer
	err := page.Execute(&out, map[string]any{
		"User": header.Get("end-user"), "Product": book,
		"DetailsStatus": detailsStatus, "Details": detailsContent,
		"ReviewsStatus": reviewsStatus, "Reviews": reviewsContent,
	})
	if err != nil {
		log.Print(err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(out.Bytes())
}

// headers gives the request's own headers, and the signed-in user as the header that routes by user match.
func headers(r *http.Request) http.Header {
	header := r.Header.Clone()
	header.Del("end-user")
	if user, err := r.Cookie("user"); err == nil && user.Value != "" {
		header.Set("end-user", user.Value)
	}
	return header
}

// fetch asks a service and, where it does not answer 200, gives the text that the originals show instead. Reviews are
// asked for twice: the originals do so on purpose, for Istio's task on fault injection.
func fetch(service, id string, header http.Header, content any) (int, any) {
	tries := 1
	if service == "reviews" {
		tries = 2
	}
	status := http.StatusInternalServerError
	for range tries {
		var err error
		if status, err = ask(service, id, header, patience, content); err == nil {
			return status, content
		}
		log.Print(err)
	}
	return status, map[string]string{"error": "Sorry, product " + service + " are currently unavailable for this book."}
}
