package main

import "fmt"

const idLength = 16

// request is one text in which the key and the buyer are overwritten, so that sending allocates nothing.
type request struct {
	text      []byte
	key, user int
	counter   uint64
}

func newRequest(address, sku string, first uint64) *request {
	blank := "0000000000000000"
	body := fmt.Sprintf(`{"skuId":"%s","quantity":1,"userId":"%s"}`, sku, blank)
	head := fmt.Sprintf("POST /api/v1/reservations HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\nIdempotency-Key: ", address, len(body))
	text := head + blank + "\r\n\r\n" + body
	return &request{text: []byte(text), key: len(head), user: len(text) - idLength - len(`"}`), counter: first}
}

func (r *request) next() []byte {
	r.counter++
	user := mix(r.counter)
	writeHex(r.text[r.user:], user)
	writeHex(r.text[r.key:], mix(user))
	return r.text
}

// mix is the finaliser of splitmix64, a bijection: different counters never meet.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func writeHex(to []byte, x uint64) {
	const digits = "0123456789abcdef"
	for i := range idLength {
		to[i] = digits[x>>(60-4*i)&15]
	}
}
