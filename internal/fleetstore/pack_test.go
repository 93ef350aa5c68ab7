package fleetstore

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Writers and readers are used again, by many goroutines, and after something that could not be read.
func TestPacking(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				v := strings.Repeat(fmt.Sprintf("%d of %d ", n, i), n)
				data, err := pack(v)
				if err != nil {
					t.Error(err)
					return
				}
				kept := bytes.Clone(data)
				var damaged string
				if err := unpack(data[:len(data)/2], &damaged); err == nil {
					t.Error("half of a message is read")
				}
				if err := unpack([]byte("no gzip"), &damaged); err == nil {
					t.Error("what is not packed is read")
				}
				if _, err := pack(func() {}); err == nil {
					t.Error("a function is packed")
				}
				if _, err := pack("another"); err != nil {
					t.Error(err)
				}
				var back string
				if err := unpack(data, &back); err != nil || back != v || !bytes.Equal(data, kept) {
					t.Errorf("%q comes back as %q, %v", v, back, err)
				}
			}
		})
	}
	wg.Wait()
}

// What is stored of one event is packed twice and read once.
func BenchmarkPack(b *testing.B) {
	v := strings.Repeat("record ", 200)
	b.ReportAllocs()
	for b.Loop() {
		data, err := pack(v)
		if err != nil {
			b.Fatal(err)
		}
		var back string
		if err := unpack(data, &back); err != nil {
			b.Fatal(err)
		}
	}
}
