// A flash sale as a Go developer would write it: gin for HTTP, the stock in Redis, one Lua script per
// request. A rival for the benchmark: it keeps no durable record, which is what such services trade away.
package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
)

//go:embed reserve.lua
var reserveSource string

const (
	holdSeconds       = 3600
	keyLifetimeSecond = 86400
)

type product struct {
	SkuID              string  `json:"skuId"`
	Name               string  `json:"name"`
	Description        string  `json:"description"`
	Category           string  `json:"category"`
	BasePrice          float64 `json:"basePrice"`
	FlashSalePrice     float64 `json:"flashSalePrice"`
	DiscountPercentage int     `json:"discountPercentage"`
	Currency           string  `json:"currency"`
	PerUserLimit       int     `json:"-"`
}

type availability struct {
	product
	AvailableCount int64  `json:"availableCount"`
	IsAvailable    bool   `json:"isAvailable"`
	IsActive       bool   `json:"isActive"`
	SaleID         string `json:"saleId"`
}

type reserveRequest struct {
	SkuID    string `json:"skuId" binding:"required,max=64"`
	Quantity int    `json:"quantity" binding:"required,min=1,max=100"`
	UserID   string `json:"userId" binding:"required,max=128"`
}

type reservation struct {
	ReservationID    string  `json:"reservationId"`
	UserID           string  `json:"userId"`
	SkuID            string  `json:"skuId"`
	Quantity         int     `json:"quantity"`
	Status           string  `json:"status"`
	UnitPrice        float64 `json:"unitPrice"`
	Currency         string  `json:"currency"`
	ExpiresAt        string  `json:"expiresAt"`
	CreatedAt        string  `json:"createdAt"`
	ExpiresInSeconds int     `json:"expiresInSeconds"`
}

type refusal struct {
	Timestamp string         `json:"timestamp"`
	Status    int            `json:"status"`
	Error     string         `json:"error"`
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Path      string         `json:"path"`
	Details   map[string]any `json:"details,omitempty"`
}

type seedRequest struct {
	SkuID string `json:"skuId" binding:"required"`
	Stock int64  `json:"stock" binding:"min=0"`
}

type shop struct {
	redis   *redis.Client
	script  *redis.Script
	catalog map[string]product
}

func newShop(redisAddress string, poolSize int) *shop {
	return &shop{
		redis:  redis.NewClient(&redis.Options{Addr: redisAddress, PoolSize: poolSize, MaxRetries: -1}),
		script: redis.NewScript(reserveSource),
		catalog: map[string]product{"BENCH-1": {
			SkuID: "BENCH-1", Name: "Phone 256 GB", Description: "The product on sale", Category: "phones",
			BasePrice: 1299.99, FlashSalePrice: 999.99, DiscountPercentage: 23, Currency: "USD", PerUserLimit: 1,
		}},
	}
}

func stockKey(sku string) string { return "stock:{" + sku + "}" }

func newReservationID() string {
	var raw [16]byte
	rand.Read(raw[:])
	return "res_" + hex.EncodeToString(raw[:])
}

func refuse(c *gin.Context, status int, code, message string, details map[string]any) {
	c.JSON(status, refusal{
		Timestamp: time.Now().UTC().Format(time.RFC3339), Status: status, Error: http.StatusText(status),
		Code: code, Message: message, Path: c.Request.URL.Path, Details: details,
	})
}

func (s *shop) reserve(c *gin.Context) {
	var request reserveRequest
	if err := c.ShouldBindJSON(&request); err != nil {
		refuse(c, http.StatusBadRequest, "VALIDATION_FAILED", err.Error(), nil)
		return
	}
	key := c.GetHeader("Idempotency-Key")
	if key == "" || len(key) > 255 {
		refuse(c, http.StatusBadRequest, "VALIDATION_FAILED", "Idempotency-Key is required", nil)
		return
	}
	item, known := s.catalog[request.SkuID]
	if !known {
		refuse(c, http.StatusNotFound, "NOT_FOUND", "No such product", nil)
		return
	}
	outcome, value, err := s.decide(c, request, item, key)
	if err != nil {
		refuse(c, http.StatusServiceUnavailable, "UNAVAILABLE", "Try again with the same key", nil)
		return
	}
	answer(c, request, item, outcome, value)
}

func (s *shop) decide(ctx context.Context, r reserveRequest, item product, key string) (string, string, error) {
	keys := []string{
		"key:{" + r.SkuID + "}:" + r.UserID + ":" + key,
		"bought:{" + r.SkuID + "}:" + r.UserID,
		stockKey(r.SkuID),
	}
	reply, err := s.script.Run(ctx, s.redis, keys,
		r.Quantity, item.PerUserLimit, newReservationID(), keyLifetimeSecond).StringSlice()
	if err != nil {
		return "", "", err
	}
	return reply[0], reply[1], nil
}

func answer(c *gin.Context, r reserveRequest, item product, outcome, value string) {
	switch outcome {
	case "SOLD_OUT":
		refuse(c, http.StatusConflict, outcome, "Product "+r.SkuID+" is out of stock. Available: "+value,
			map[string]any{"skuId": r.SkuID, "requestedQuantity": r.Quantity, "availableQuantity": 0})
	case "LIMIT_EXCEEDED":
		refuse(c, http.StatusForbidden, outcome, "Over the purchase limit",
			map[string]any{"limit": item.PerUserLimit, "alreadyHeld": value})
	case "REPLAY":
		c.Header("Idempotent-Replay", "true")
		fallthrough
	default:
		c.JSON(http.StatusCreated, reserved(r, item, value))
	}
}

func reserved(r reserveRequest, item product, id string) reservation {
	now := time.Now().UTC()
	return reservation{
		ReservationID: id, UserID: r.UserID, SkuID: r.SkuID, Quantity: r.Quantity, Status: "RESERVED",
		UnitPrice: item.FlashSalePrice, Currency: item.Currency, CreatedAt: now.Format(time.RFC3339),
		ExpiresAt:        now.Add(holdSeconds * time.Second).Format(time.RFC3339),
		ExpiresInSeconds: holdSeconds,
	}
}

func (s *shop) available(c *gin.Context) {
	item, known := s.catalog[c.Param("sku")]
	if !known {
		refuse(c, http.StatusNotFound, "NOT_FOUND", "No such product", nil)
		return
	}
	left, err := s.redis.Get(c, stockKey(item.SkuID)).Int64()
	if err != nil && err != redis.Nil {
		refuse(c, http.StatusServiceUnavailable, "UNAVAILABLE", "Try again", nil)
		return
	}
	c.JSON(http.StatusOK, availability{
		product: item, AvailableCount: left, IsAvailable: left > 0, IsActive: true, SaleID: "bench",
	})
}

// seed starts a new sale: everything known is forgotten.
func (s *shop) seed(c *gin.Context) {
	var request seedRequest
	if err := c.ShouldBindJSON(&request); err != nil {
		refuse(c, http.StatusBadRequest, "VALIDATION_FAILED", err.Error(), nil)
		return
	}
	_, err := s.redis.TxPipelined(c, func(p redis.Pipeliner) error {
		p.FlushDB(c)
		return p.Set(c, stockKey(request.SkuID), request.Stock, 0).Err()
	})
	if err != nil {
		refuse(c, http.StatusServiceUnavailable, "UNAVAILABLE", err.Error(), nil)
		return
	}
	c.Status(http.StatusNoContent)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	redisAddress := flag.String("redis", "127.0.0.1:6379", "address of Redis")
	pool := flag.Int("pool", 512, "connections to Redis, at least as many as clients")
	flag.Parse()
	gin.SetMode(gin.ReleaseMode)
	s := newShop(*redisAddress, *pool)
	router := gin.New()
	router.Use(gin.Recovery())
	router.POST("/api/v1/reservations", s.reserve)
	router.GET("/api/v1/products/:sku/availability", s.available)
	router.POST("/seed", s.seed)
	log.Fatal(router.Run(*listen))
}
