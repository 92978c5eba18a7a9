package main

import "testing"

func TestParse(t *testing.T) {
	whole := "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"
	for _, c := range []struct {
		text           string
		status, length int
		ok             bool
	}{
		{whole, 201, len(whole), true},
		{whole[:len(whole)-1], 201, 0, true},
		{whole[:20], 0, 0, true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, 0, false},
		{"nonsense that is no answer\r\n\r\n", 0, 0, false},
	} {
		status, length, ok := parse([]byte(c.text))
		if status != c.status || length != c.length || ok != c.ok {
			t.Errorf("%q: %d %d %v", c.text, status, length, ok)
		}
	}
}

func TestBuyersAreUnique(t *testing.T) {
	seen, r := map[string]bool{}, newRequest("h:1", "S", 7<<32)
	for range 100_000 {
		seen[string(r.next())] = true
	}
	if len(seen) != 100_000 {
		t.Error(len(seen))
	}
}
