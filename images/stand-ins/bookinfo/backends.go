package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func details(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "Details is healthy"})
	})
	mux.HandleFunc("GET /details/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "please provide numeric product id"})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"id": id, "author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200,
			"publisher": "PublisherA", "language": "English", "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
		})
	})
}

type ratingsOf struct {
	ID      int            `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

func ratings(mux *http.ServeMux) {
	var lock sync.Mutex
	posted := map[int]map[string]int{}
	numeric := func(w http.ResponseWriter, r *http.Request) (int, bool) {
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "please provide numeric product ID"})
		}
		return id, err == nil
	}
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "Ratings is healthy"})
	})
	mux.HandleFunc("GET /ratings/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := numeric(w, r)
		if !ok {
			return
		}
		lock.Lock()
		defer lock.Unlock()
		stars, known := posted[id]
		if !known {
			stars = map[string]int{"Reviewer1": 5, "Reviewer2": 4}
		}
		writeJSON(w, http.StatusOK, ratingsOf{id, stars})
	})
	mux.HandleFunc("POST /ratings/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := numeric(w, r)
		if !ok {
			return
		}
		var stars map[string]int
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&stars); err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": "please provide valid ratings JSON"})
			return
		}
		lock.Lock()
		defer lock.Unlock()
		posted[id] = stars
		writeJSON(w, http.StatusOK, ratingsOf{id, stars})
	})
}

type rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

type reviewsOf struct {
	ID      string   `json:"id"`
	Podname string   `json:"podname"`
	Reviews []review `json:"reviews"`
}

// Versions 2 and 3 differ from 1 by their image's environment: ENABLE_RATINGS, and STAR_COLOR black or red.
func reviews(mux *http.ServeMux) {
	rated := os.Getenv("ENABLE_RATINGS") == "true"
	color := setting("STAR_COLOR", "black")
	timeout := 10 * time.Second
	if color != "black" {
		timeout = 2500 * time.Millisecond
	}
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "Reviews is healthy"})
	})
	mux.HandleFunc("GET /reviews/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer := reviewsOf{r.PathValue("id"), os.Getenv("HOSTNAME"), []review{
			{Reviewer: "Reviewer1", Text: "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"},
			{Reviewer: "Reviewer2", Text: "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare."},
		}}
		if rated {
			var found ratingsOf
			if _, err := ask("ratings", answer.ID, r.Header, timeout, &found); err != nil {
				log.Printf("Error: unable to contact ratings: %s", err)
			}
			for i := range answer.Reviews {
				answer.Reviews[i].Rating = &rating{Error: "Ratings service is currently unavailable"}
				if stars, known := found.Ratings[answer.Reviews[i].Reviewer]; known {
					answer.Reviews[i].Rating = &rating{Stars: stars, Color: color}
				}
			}
		}
		writeJSON(w, http.StatusOK, answer)
	})
}
