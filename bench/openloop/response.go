package main

import "bytes"

// parse finds the first response in what has arrived: its status and length, or length 0 if it is not
// whole yet, or ok false if it is none that we understand (the rivals all send Content-Length).
func parse(text []byte) (status, length int, ok bool) {
	end := bytes.Index(text, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, 0, true
	}
	if end < 12 || string(text[:7]) != "HTTP/1." {
		return 0, 0, false
	}
	body := contentLength(text[:end])
	if body < 0 {
		return 0, 0, false
	}
	status = number(text[9:12])
	if length = end + 4 + body; length > len(text) {
		length = 0
	}
	return status, length, status > 0
}

func contentLength(head []byte) int {
	name := []byte("content-length:")
	for len(head) > 0 {
		line := head
		if i := bytes.IndexByte(head, '\n'); i >= 0 {
			line, head = head[:i], head[i+1:]
		} else {
			head = nil
		}
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], name) {
			return number(bytes.TrimSpace(line[len(name):]))
		}
	}
	return -1
}

func number(digits []byte) int {
	value := 0
	for _, c := range digits {
		if c < '0' || c > '9' {
			return -1
		}
		value = value*10 + int(c-'0')
	}
	return value
}
