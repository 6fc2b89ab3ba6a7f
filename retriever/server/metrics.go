package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"imagebind-llm/retriever/jobs"
	"imagebind-llm/retriever/retrieverapi"
	"imagebind-llm/retriever/store"
)

// metrics are what GET /metrics shows.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	lookup   *prometheus.HistogramVec
	answers  *prometheus.CounterVec
}

func newMetrics(s store.Store, j *jobs.Manager) *metrics {
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "retriever_requests_total", Help: "Requests by route, method and status."}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "retriever_request_seconds", Help: "Time to the end of the answer.", Buckets: buckets}, []string{"route", "method"}),
		lookup:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "retriever_lookup_seconds", Help: "Time in the store and the arithmetic, without JSON.", Buckets: buckets}, []string{"operation"}),
	}
	m.answers = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "retriever_answers_total", Help: "Queries whose neighbours were kept from an earlier one (hit), or searched for (miss)."}, []string{"cache"})
	m.registry.MustRegister(m.requests, m.duration, m.lookup, m.answers, &state{s, j},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) observe(c *gin.Context) {
	start := time.Now()
	c.Next()
	route := c.FullPath()
	if route == "" {
		route = "none" // whatever else was asked for must not become a label
	}
	m.requests.WithLabelValues(route, c.Request.Method, strconv.Itoa(c.Writer.Status())).Inc()
	m.duration.WithLabelValues(route, c.Request.Method).Observe(time.Since(start).Seconds())
}

// state reads rows and jobs when it is asked.
type state struct {
	store store.Store
	jobs  *jobs.Manager
}

var (
	rowsDesc       = prometheus.NewDesc("retriever_rows", "Rows that serve.", []string{"collection"}, nil)
	deviceDesc     = prometheus.NewDesc("retriever_device_rows", "Rows that serve and are on the device.", []string{"collection"}, nil)
	askedDesc      = prometheus.NewDesc("retriever_device_queries_total", "Queries without a filter by what answered them, the device or a scan of all rows; since the rows were loaded.", []string{"collection", "by"}, nil)
	generationDesc = prometheus.NewDesc("retriever_generation", "The generation that serves.", []string{"collection"}, nil)
	jobsDesc       = prometheus.NewDesc("retriever_jobs", "Jobs by state.", []string{"state"}, nil)
	upDesc         = prometheus.NewDesc("retriever_store_up", "1 when the store lists its collections.", nil, nil)
)

// Describe lists the state's metrics.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rowsDesc, deviceDesc, askedDesc, generationDesc, jobsDesc, upDesc} {
		ch <- d
	}
}

// Collect reads them.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	up := 0.0
	if infos, err := s.store.List(ctx); err == nil {
		up = 1
		for _, i := range infos {
			ch <- prometheus.MustNewConstMetric(rowsDesc, prometheus.GaugeValue, float64(i.Count), i.Name)
			ch <- prometheus.MustNewConstMetric(generationDesc, prometheus.GaugeValue, float64(i.Generation), i.Name)
			if d := i.Device; d.Rows > 0 {
				ch <- prometheus.MustNewConstMetric(deviceDesc, prometheus.GaugeValue, float64(d.Rows), i.Name)
				ch <- prometheus.MustNewConstMetric(askedDesc, prometheus.CounterValue, float64(d.Queries-d.Scanned), i.Name, "device")
				ch <- prometheus.MustNewConstMetric(askedDesc, prometheus.CounterValue, float64(d.Scanned), i.Name, "scan")
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up)
	n := map[string]int{retrieverapi.JobQueued: 0, retrieverapi.JobRunning: 0, retrieverapi.JobDone: 0, retrieverapi.JobFailed: 0, retrieverapi.JobCancelled: 0}
	for _, j := range s.jobs.List() {
		n[j.State]++
	}
	for state, count := range n {
		ch <- prometheus.MustNewConstMetric(jobsDesc, prometheus.GaugeValue, float64(count), state)
	}
}
