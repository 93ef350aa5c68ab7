// Command binarycache serves a directory as a binary cache of Nix over HTTP, and can be told to serve it badly. It runs on a test
// host, which has no other program that could.
//
// Usage: binarycache DIRECTORY LISTEN-ADDRESS. While DIRECTORY/fault holds "cut", the connection of every nar is closed half way
// through; while it holds "stall", the second half of every nar waits until the file is gone.
package main

import (
	"log"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: binarycache DIRECTORY LISTEN-ADDRESS")
	}
	log.Fatal(http.ListenAndServe(os.Args[2], cache{dir: os.Args[1]}))
}

type cache struct{ dir string }

func (c cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	log.Print(r.Method, " ", r.URL.Path)
	at := filepath.Join(c.dir, filepath.FromSlash(path.Clean("/"+r.URL.Path)))
	if !strings.HasPrefix(r.URL.Path, "/nar/") || c.fault() == "" {
		http.ServeFile(w, r, at)
		return
	}
	content, err := os.ReadFile(at)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if _, err := w.Write(content[:len(content)/2]); err != nil {
		return
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		return
	}
	for c.fault() == "stall" {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	if c.fault() == "cut" {
		panic(http.ErrAbortHandler) // closes the connection in the middle of the answer
	}
	_, _ = w.Write(content[len(content)/2:]) // whoever asked may be gone
}

func (c cache) fault() string {
	text, err := os.ReadFile(filepath.Join(c.dir, "fault"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
