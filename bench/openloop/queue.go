package main

// queue holds the free connections, the longest unused first: so every connection is used in turn, as by
// a crowd, and not the few that were busy a moment ago.
type queue struct {
	ring        []*connection
	first, size int
}

func newQueue(capacity int) *queue { return &queue{ring: make([]*connection, capacity)} }

func (q *queue) put(c *connection) {
	q.ring[(q.first+q.size)%len(q.ring)] = c
	q.size++
}

func (q *queue) take() *connection {
	c := q.ring[q.first]
	q.first = (q.first + 1) % len(q.ring)
	q.size--
	return c
}

func (q *queue) remove(c *connection) {
	for range q.size {
		if other := q.take(); other != c {
			q.put(other)
		}
	}
}
