package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	imagebind "imagebind-llm"
	"imagebind-llm/runner/pipeline"
)

// Metrics are what GET /metrics shows. They are the pipeline's Observer, so
// they are made before both pipeline and server.
type Metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	first     prometheus.Histogram
	prompt    prometheus.Counter
	generated prometheus.Counter
	perToken  prometheus.Histogram
	rows      prometheus.Histogram
	step      prometheus.Histogram
	read      prometheus.Counter
	reading   prometheus.Counter
	encode    *prometheus.HistogramVec
	recalled  *prometheus.CounterVec
	retrieve  *prometheus.HistogramVec
	without   prometheus.Counter
	inside    prometheus.Gauge
	running   prometheus.Gauge
}

var _ pipeline.Observer = (*Metrics)(nil)

// NewMetrics returns metrics that have seen nothing.
func NewMetrics() *Metrics {
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "runner_requests_total", Help: "Requests by route, method and status."}, []string{"route", "method", "status"}),
		duration:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "runner_request_seconds", Help: "Time to the end of the answer.", Buckets: seconds}, []string{"route", "method"}),
		first:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "runner_first_token_seconds", Help: "From a query to a choice's first token, queue and encoders included.", Buckets: seconds}),
		prompt:    prometheus.NewCounter(prometheus.CounterOpts{Name: "runner_prompt_tokens_total", Help: "Tokens of prompts, once a choice."}),
		generated: prometheus.NewCounter(prometheus.CounterOpts{Name: "runner_generated_tokens_total", Help: "Tokens of answers."}),
		perToken:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "runner_token_seconds", Help: "Decode time of a choice by its tokens: the mean time between two.", Buckets: []float64{.0005, .001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5}}),
		rows:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "runner_step_sequences", Help: "Sequences that took a step of the decoder together.", Buckets: []float64{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64}}),
		step:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "runner_step_seconds", Help: "One step of the decoder, a token for each of its sequences.", Buckets: []float64{.0005, .001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5}}),
		read:      prometheus.NewCounter(prometheus.CounterOpts{Name: "runner_prefill_tokens_total", Help: "Tokens of prompts that the decoder read: those less what was in the KV cache."}),
		reading:   prometheus.NewCounter(prometheus.CounterOpts{Name: "runner_prefill_seconds_total", Help: "Time that the decoder spent on reading them."}),
		encode:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "runner_encode_seconds", Help: "Reading and embedding of one part.", Buckets: seconds}, []string{"modality"}),
		recalled:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "runner_embed_cache_total", Help: "Parts by whether their embedding was kept or being made (hit) or not (miss)."}, []string{"modality", "outcome"}),
		retrieve:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "runner_retrieve_seconds", Help: "One call of the retriever, tries again included.", Buckets: seconds}, []string{"outcome"}),
		without:   prometheus.NewCounter(prometheus.CounterOpts{Name: "runner_degraded_total", Help: "Requests that wanted the feature cache and were answered without."}),
		inside:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "runner_requests_inside", Help: "Requests let in and not over: at work or waiting."}),
		running:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "runner_choices_running", Help: "Choices that have a decoder slot."}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.first, m.prompt, m.generated, m.perToken, m.rows, m.step, m.read, m.reading, m.encode, m.recalled, m.retrieve, m.without, m.inside, m.running,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) observe(c *gin.Context) {
	start := time.Now()
	c.Next()
	route := c.FullPath()
	if route == "" {
		route = "none" // whatever else was asked for must not become a label
	}
	m.requests.WithLabelValues(route, c.Request.Method, strconv.Itoa(c.Writer.Status())).Inc()
	m.duration.WithLabelValues(route, c.Request.Method).Observe(time.Since(start).Seconds())
}

// answered counts what only the whole answer tells.
func (m *Metrics) answered(a pipeline.Answer) { m.degraded(a.Bind) }

func (m *Metrics) degraded(b pipeline.Bind) {
	if b.Degraded {
		m.without.Inc()
	}
}

// Queue hears of the requests let in and the choices that have a slot.
func (m *Metrics) Queue(requests, running int) {
	m.inside.Set(float64(requests))
	m.running.Set(float64(running))
}

// Encoded hears of a part that was read and embedded.
func (m *Metrics) Encoded(modality string, d time.Duration) {
	m.encode.WithLabelValues(modality).Observe(d.Seconds())
}

// Recalled hears of a part whose embedding was looked for.
func (m *Metrics) Recalled(modality string, hit bool) {
	outcome := "miss"
	if hit {
		outcome = "hit"
	}
	m.recalled.WithLabelValues(modality, outcome).Inc()
}

// Retrieved hears of a call of the retriever.
func (m *Metrics) Retrieved(d time.Duration, err error) {
	outcome := "ok"
	switch {
	case err == nil:
	case imagebind.KindOf(err) == imagebind.Timeout:
		outcome = "timeout"
	case imagebind.KindOf(err) == imagebind.Invalid, imagebind.KindOf(err) == imagebind.NotFound:
		outcome = "refused"
	default:
		outcome = "failed"
	}
	m.retrieve.WithLabelValues(outcome).Observe(d.Seconds())
}

// Prefilled hears of a choice's first token.
func (m *Metrics) Prefilled(tokens int, sinceRequest time.Duration) {
	m.prompt.Add(float64(tokens))
	m.first.Observe(sinceRequest.Seconds())
}

// Generated hears of a choice that is over.
func (m *Metrics) Generated(tokens int, d time.Duration) {
	m.generated.Add(float64(tokens))
	if tokens > 0 {
		m.perToken.Observe(d.Seconds() / float64(tokens))
	}
}

// Ran hears of a run of the decoder.
func (m *Metrics) Ran(sequences, prompt int, d time.Duration) {
	if sequences > 0 {
		m.rows.Observe(float64(sequences))
		m.step.Observe(d.Seconds())
	}
	if prompt > 0 {
		m.read.Add(float64(prompt))
		m.reading.Add(d.Seconds())
	}
}
