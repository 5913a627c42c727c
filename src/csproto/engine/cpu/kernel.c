/* One forward pass of a Llama-shaped decoder (Llama, Qwen2, Qwen3) over a paged KV cache, in one call.
 *
 * Why: between two matrix products of a small model PyTorch spends more time in Python and in starting operations than the products take.
 * The weights and the KV cache are SGLang's own tensors, read in place: nothing is copied or packed, so weight updates and memory are unaffected.
 * Values are rounded where SGLang's PyTorch path rounds them, so both give the same tokens. Compiled with -DBF16=1 or 0 (float32).
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if BF16 && defined(__AVX512BF16__)
#include <immintrin.h>
#define DOT_BF16 1
#endif

/* ---- numbers ---- */

#if defined(__AVX512F__)
enum { LANES = 16, TILE = 16 }; /* floats in a vector, accumulators of a tile */
#else
enum { LANES = 8, TILE = 8 };
#endif
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));

#if BF16
typedef uint16_t elem;
static inline float get(elem x) {
    union { uint32_t u; float f; } v = {(uint32_t)x << 16};
    return v.f;
}
static inline elem put(float f) { /* to nearest, ties to even, as PyTorch does */
    union { float f; uint32_t u; } v = {f};
    return (elem)((v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16);
}
static inline vec load(const elem *p) {
    hvec h;
    memcpy(&h, p, sizeof h);
    return (vec)(__builtin_convertvector(h, uvec) << 16);
}
#else
typedef float elem;
static inline float get(elem x) { return x; }
static inline elem put(float f) { return f; }
static inline vec load(const elem *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
#endif
static inline float rounded(float f) { return get(put(f)); }

/* e^x = 2^n 2^f to about 1e-6 for any x of interest; no call in it, so that loops around it become vectors. */
static inline float exponential(float x) {
    float t = (x < -87.f ? -87.f : x > 88.f ? 88.f : x) * 1.44269504f, n = __builtin_rintf(t), f = t - n;
    float p = (((((1.54035304e-4f * f + 1.33335581e-3f) * f + 9.61812911e-3f) * f + 5.55041087e-2f) * f + 2.40226507e-1f) * f + 6.93147181e-1f) * f + 1.f;
    union { int32_t i; float f; } scale = {((int32_t)n + 127) << 23};
    return p * scale.f;
}

/* ---- threads: the tasks of a job are taken from a counter, so that a thread the system has put aside holds up one task only ---- */

typedef void (*job_t)(void *argument, int task, int thread);
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int threads;
    atomic_int spinning;   /* a forward pass is under way: workers stay awake */
    atomic_uint_fast64_t ticket; /* number of the job, how many tasks it has, the next one: read and changed as one */
    atomic_int done;
    job_t job;
    void *argument;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1, 0, 0, 0, 0, 0};
static inline uint64_t number_of(uint64_t ticket) { return ticket >> 40; }
static inline int tasks_of(uint64_t ticket) { return ticket >> 20 & 0xfffff; }
static inline int next_of(uint64_t ticket) { return ticket & 0xfffff; }

static inline void rest(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Take tasks of job `number` until none is left. A task taken keeps the job alive: its owner waits until all are done. */
static void work(uint64_t number, int thread) {
    uint64_t now = atomic_load(&pool.ticket);
    while (number_of(now) == number && next_of(now) < tasks_of(now)) {
        if (!atomic_compare_exchange_weak(&pool.ticket, &now, now + 1)) continue;
        pool.job(pool.argument, next_of(now), thread);
        atomic_fetch_add(&pool.done, 1);
        now = atomic_load(&pool.ticket);
    }
}

static void *worker(void *index) {
    uint64_t seen = 0;
    for (;;) {
        uint64_t number = number_of(atomic_load(&pool.ticket));
        if (number != seen) {
            work(number, (int)(intptr_t)index);
            seen = number;
        } else if (atomic_load(&pool.spinning)) {
            rest();
        } else {
            pthread_mutex_lock(&pool.lock);
            while (!atomic_load(&pool.spinning)) pthread_cond_wait(&pool.wake, &pool.lock);
            pthread_mutex_unlock(&pool.lock);
        }
    }
    return 0;
}

static void parallel(job_t job, void *argument, int tasks) {
    if (pool.threads == 1 || tasks == 1) {
        for (int i = 0; i < tasks; i++) job(argument, i, 0);
        return;
    }
    uint64_t number = (number_of(atomic_load(&pool.ticket)) + 1) & 0xffffff;
    pool.job = job, pool.argument = argument;
    atomic_store(&pool.done, 0);
    atomic_store(&pool.ticket, number << 40 | (uint64_t)tasks << 20);
    work(number, 0);
    while (atomic_load(&pool.done) < tasks) rest();
}

/* Start the workers, once. Returns the number of threads. */
int start_threads(int threads) {
    for (pthread_t thread; pool.threads < threads; pool.threads++)
        if (pthread_create(&thread, 0, worker, (void *)(intptr_t)pool.threads)) break;
    return pool.threads;
}

static void workers(int awake) {
    if (pool.threads == 1) return;
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.spinning, awake);
    if (awake) pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
}

/* ---- products: rows of x times rows of w, both contiguous along k ---- */

#if DOT_BF16
/* The sums of 16 vectors, in one vector: 15 additions of halves that are interleaved on the way. */
static inline __m512 sums(__m512 a[16]) {
    for (int i = 0; i < 8; i++) a[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d x = (__m512d)a[2 * i], y = (__m512d)a[2 * i + 1];
        a[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(x, y), (__m512)_mm512_unpackhi_pd(x, y));
    }
    for (int i = 0; i < 2; i++) a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88), _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[1], 0x88), _mm512_shuffle_f32x4(a[0], a[1], 0xdd));
}
#endif

/* out[m][n] = x[m] . w[n] for mm rows of x and TILE / mm rows of w. */
static inline __attribute__((always_inline)) void tile(const elem *const *x, const elem *const *w, int k, float *out, const int mm) {
    const int nn = TILE / mm;
#if DOT_BF16
    __m512 acc[TILE];
    for (int i = 0; i < TILE; i++) acc[i] = _mm512_setzero_ps();
    for (int at = 0; at < k; at += 32) {
        __mmask32 mask = k - at >= 32 ? 0xffffffffu : (1u << (k - at)) - 1;
        __m512bh b[4];
        for (int m = 0; m < mm; m++) b[m] = (__m512bh)_mm512_maskz_loadu_epi16(mask, x[m] + at);
        for (int n = 0; n < nn; n++) {
            __m512bh a = (__m512bh)_mm512_maskz_loadu_epi16(mask, w[n] + at);
            for (int m = 0; m < mm; m++) acc[m * nn + n] = _mm512_dpbf16_ps(acc[m * nn + n], a, b[m]);
        }
    }
    _mm512_storeu_ps(out, sums(acc));
#else
    vec acc[TILE];
    for (int i = 0; i < TILE; i++) acc[i] = (vec){0};
    int at = 0;
    for (; at + LANES <= k; at += LANES) {
        vec b[4];
        for (int m = 0; m < mm; m++) b[m] = load(x[m] + at);
        for (int n = 0; n < nn; n++) {
            vec a = load(w[n] + at);
            for (int m = 0; m < mm; m++) acc[m * nn + n] += a * b[m];
        }
    }
    for (int m = 0; m < mm; m++)
        for (int n = 0; n < nn; n++) {
            float sum = 0;
            for (int i = 0; i < LANES; i++) sum += acc[m * nn + n][i];
            for (int i = at; i < k; i++) sum += get(x[m][i]) * get(w[n][i]);
            out[m * nn + n] = sum;
        }
#endif
}

/* out[m * stride + n] for any number of rows. Rows beyond the end are computed on a copy of the last one and thrown away. */
static void dots(const elem *const *x, int m_count, const elem *const *w, int n_count, int k, float *out, int stride) {
    for (int m = 0; m < m_count;) {
        int left = m_count - m, mm = left >= 3 ? 4 : left, nn = TILE / mm;
        if (TILE < 16 && mm > 2) mm = 2, nn = TILE / 2;
        const elem *xs[4], *ws[TILE];
        float sum[TILE];
        for (int i = 0; i < mm; i++) xs[i] = x[m + (i < left ? i : left - 1)];
        for (int n = 0; n < n_count; n += nn) {
            int wide = n_count - n < nn ? n_count - n : nn;
            for (int i = 0; i < nn; i++) ws[i] = w[n + (i < wide ? i : wide - 1)];
            if (mm == 1) tile(xs, ws, k, sum, 1);
            else if (mm == 2) tile(xs, ws, k, sum, 2);
            else tile(xs, ws, k, sum, 4);
            for (int i = 0; i < mm && i < left; i++)
                for (int j = 0; j < wide; j++) out[(m + i) * (long)stride + n + j] = sum[i * nn + j];
        }
        m += mm;
    }
}

#if DOT_BF16
/* Many rows of x: a row in each lane. Nothing is summed across lanes, and w is read one pair of numbers at a time, which goes to all lanes. */
enum { WIDE = 16, ENOUGH = 10 }; /* from so many rows on, idle lanes and all, it is faster than the tiles above */

static inline void transpose(__m512 a[16]) {
    __m512 b[16];
    for (int i = 0; i < 8; i++) b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d x = (__m512d)b[i + j], y = (__m512d)b[i + 2 + j];
            a[i + 2 * j] = (__m512)_mm512_unpacklo_pd(x, y), a[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(x, y);
        }
    for (int i = 0; i < 4; i++) {
        __m512 x = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), y = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 z = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd), v = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        b[i] = _mm512_shuffle_f32x4(x, y, 0x88), b[8 + i] = _mm512_shuffle_f32x4(x, y, 0xdd);
        b[4 + i] = _mm512_shuffle_f32x4(z, v, 0x88), b[12 + i] = _mm512_shuffle_f32x4(z, v, 0xdd);
    }
    for (int i = 0; i < 16; i++) a[i] = b[i];
}

/* pairs[i]: numbers 2 i and 2 i + 1 of each row; zeros for rows and numbers that are not there. */
static void pack(const elem *const *x, int rows, int k, __m512 *pairs) {
    for (int at = 0; at < k; at += 32) {
        __mmask32 mask = k - at >= 32 ? 0xffffffffu : (1u << (k - at)) - 1;
        __m512 *block = pairs + at / 2;
        for (int i = 0; i < WIDE; i++) block[i] = i < rows ? (__m512)_mm512_maskz_loadu_epi16(mask, x[i] + at) : _mm512_setzero_ps();
        transpose(block);
    }
}

/* out[m * stride + n] for up to 16 rows, packed. k is even. */
static void wide(const __m512 *pairs, int m_count, const elem *const *w, int n_count, int k, float *out, int stride) {
    for (int n = 0; n < n_count; n += WIDE) {
        __m512 acc[WIDE];
        int count = n_count - n < WIDE ? n_count - n : WIDE;
        for (int half = 0; half < WIDE; half += 8) {
            __m512 a[8];
            const elem *row[8];
            for (int i = 0; i < 8; i++) a[i] = _mm512_setzero_ps(), row[i] = w[n + (half + i < count ? half + i : 0)];
            for (int at = 0; at < k; at += 2) {
                __m512bh x = (__m512bh)pairs[at / 2];
                for (int i = 0; i < 8; i++) {
                    int32_t pair;
                    memcpy(&pair, row[i] + at, sizeof pair);
                    a[i] = _mm512_dpbf16_ps(a[i], x, (__m512bh)_mm512_set1_epi32(pair));
                }
            }
            for (int i = 0; i < 8; i++) acc[half + i] = a[i];
        }
        transpose(acc);
        __mmask16 mask = (1u << count) - 1;
        for (int m = 0; m < m_count; m++) _mm512_mask_storeu_ps(out + m * (long)stride + n, mask, acc[m]);
    }
}
#endif

/* As `dots`, for up to 16 rows of x against many rows of w. */
static void product_rows(const elem *const *x, int m_count, const elem *const *w, int n_count, int k, float *out, int stride) {
#if DOT_BF16
    if (m_count >= ENOUGH && k % 2 == 0) {
        __m512 pairs[(k + 31) / 32 * 16];
        pack(x, m_count, k, pairs);
        wide(pairs, m_count, w, n_count, k, out, stride);
        return;
    }
#endif
    dots(x, m_count, w, n_count, k, out, stride);
}

/* ---- the model ---- */

typedef struct {
    const elem *norm1, *qkv, *qkv_bias, *q_norm, *k_norm, *o, *o_bias, *norm2, *gate_up, *down;
    elem *keys, *values;
} layer_t;

typedef struct {
    int64_t layers, hidden, heads, kv_heads, head_dim, inter, vocab, max_context;
    float eps, scale;
    const elem *embed, *final_norm, *head;
    const float *cos_sin; /* a row per position: cosines, then sines */
    const layer_t *layer;
} model_t;

typedef struct {
    int64_t tokens;
    const int64_t *ids, *positions, *slots, *rows; /* per token; slots: where its key and value go; rows: its request in req_to_token */
    const int32_t *req_to_token;                   /* per request, the slots of its tokens in order of position */
    int64_t row_stride;
    elem *hidden;                                  /* out: tokens x hidden after the last norm, or null */
    float *logits;                                 /* out: tokens x vocab, or null */
} batch_t;

/* tokens that go through the layers together; rows of x at a time: they stay in the first-level cache; bytes of weights in a task */
enum { STEP = 256, ROWS = 16, BYTES = 48 << 10 };

typedef struct {
    const model_t *model;
    batch_t batch; /* at most STEP tokens of the caller's */
    const layer_t *layer;
    elem *residual, *normed, *qkv, *attended, *act, *out, *weights;
    float *scores;
    int block;      /* tokens per task in attention */
    /* the current product */
    const elem *x, *w, *bias;
    elem *y;
    float *logits;
    int k, n, chunk;
} pass_t;

static int chunk_rows(int k, int matrices) {
    int rows = BYTES / (k * (int)sizeof(elem) * matrices) / 16 * 16;
    return rows < 16 ? 16 : rows > 256 ? 256 : rows;
}

static void product_task(void *argument, int task, int thread) {
    pass_t *p = argument;
    int from = task * p->chunk, count = p->n - from < p->chunk ? p->n - from : p->chunk;
    const elem *x[ROWS], *w[256];
    float y[ROWS * 256];
    for (int i = 0; i < count; i++) w[i] = p->w + (int64_t)(from + i) * p->k;
    for (int64_t at = 0; at < p->batch.tokens; at += ROWS) {
        int rows = p->batch.tokens - at < ROWS ? (int)(p->batch.tokens - at) : ROWS;
        for (int i = 0; i < rows; i++) x[i] = p->x + (at + i) * p->k;
        product_rows(x, rows, w, count, p->k, y, 256);
        for (int i = 0; i < rows; i++) {
            if (p->logits) {
                float *to = p->logits + (at + i) * p->n + from;
                for (int j = 0; j < count; j++) to[j] = rounded(y[i * 256 + j]);
            } else {
                elem *to = p->y + (at + i) * p->n + from;
                for (int j = 0; j < count; j++) to[j] = put(y[i * 256 + j] + (p->bias ? get(p->bias[from + j]) : 0.f));
            }
        }
    }
}

static void product(pass_t *p, const elem *x, const elem *w, const elem *bias, elem *y, float *logits, int k, int n) {
    p->x = x, p->w = w, p->bias = bias, p->y = y, p->logits = logits, p->k = k, p->n = n, p->chunk = chunk_rows(k, 1);
    parallel(product_task, p, (n + p->chunk - 1) / p->chunk);
}

/* act = silu(gate) * up, both products in one task */
static void gate_up_task(void *argument, int task, int thread) {
    pass_t *p = argument;
    int from = task * p->chunk, count = p->n - from < p->chunk ? p->n - from : p->chunk;
    const elem *x[ROWS], *w[512];
    float y[ROWS * 512];
    for (int i = 0; i < count; i++) {
        w[i] = p->w + (int64_t)(from + i) * p->k;
        w[count + i] = w[i] + (int64_t)p->n * p->k;
    }
    for (int64_t at = 0; at < p->batch.tokens; at += ROWS) {
        int rows = p->batch.tokens - at < ROWS ? (int)(p->batch.tokens - at) : ROWS;
        for (int i = 0; i < rows; i++) x[i] = p->x + (at + i) * p->k;
        product_rows(x, rows, w, 2 * count, p->k, y, 512);
        for (int i = 0; i < rows; i++) {
            elem *to = p->y + (at + i) * p->n + from;
            for (int j = 0; j < count; j++) {
                float gate = rounded(y[i * 512 + j]), up = rounded(y[i * 512 + count + j]);
                to[j] = put(rounded(gate / (1.f + exponential(-gate))) * up);
            }
        }
    }
}

static void norm_row(const float *x, const elem *weight, elem *out, int n, float eps) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float factor = 1.f / __builtin_sqrtf(sum / n + eps);
    for (int i = 0; i < n; i++) out[i] = put(x[i] * factor * get(weight[i]));
}

static void rotate(elem *x, const float *cos_sin, int half) {
    for (int i = 0; i < half; i++) {
        float a = get(x[i]), b = get(x[half + i]), c = rounded(cos_sin[i]), s = rounded(cos_sin[half + i]);
        x[i] = put(rounded(a * c) - rounded(b * s));
        x[half + i] = put(rounded(b * c) + rounded(a * s));
    }
}

/* residual += what the last product gave (or the embedding); normed = norm(residual) */
static void add_norm(pass_t *p, int64_t t, const elem *weight, int start) {
    const int n = (int)p->model->hidden;
    float sum[n];
    elem *residual = p->residual + t * n;
    if (start) memcpy(residual, p->model->embed + p->batch.ids[t] * n, n * sizeof(elem));
    for (int i = 0; i < n; i++) sum[i] = get(residual[i]) + (start ? 0.f : get(p->out[t * n + i]));
    for (int i = 0; i < n; i++) residual[i] = put(sum[i]);
    norm_row(sum, weight, p->normed + t * n, n, p->model->eps);
}

static void start_task(void *argument, int t, int thread) { pass_t *p = argument; add_norm(p, t, p->layer->norm1, 1); }
static void norm1_task(void *argument, int t, int thread) { pass_t *p = argument; add_norm(p, t, p->layer->norm1, 0); }
static void norm2_task(void *argument, int t, int thread) { pass_t *p = argument; add_norm(p, t, p->layer->norm2, 0); }
static void last_norm_task(void *argument, int t, int thread) { pass_t *p = argument; add_norm(p, t, p->model->final_norm, 0); }

/* norm of query and key heads where the model has one, rotation, and the key and value into the cache */
static void rope_task(void *argument, int t, int thread) {
    pass_t *p = argument;
    const model_t *m = p->model;
    const int d = (int)m->head_dim, q = (int)m->heads, kv = (int)m->kv_heads;
    elem *row = p->qkv + (int64_t)t * (q + 2 * kv) * d;
    float wide[d];
    for (int h = 0; h < q + kv; h++) {
        elem *head = row + h * d;
        const elem *weight = h < q ? p->layer->q_norm : p->layer->k_norm;
        if (weight) {
            for (int i = 0; i < d; i++) wide[i] = get(head[i]);
            norm_row(wide, weight, head, d, m->eps);
        }
        rotate(head, m->cos_sin + p->batch.positions[t] * d, d / 2);
    }
    int64_t to = p->batch.slots[t] * kv * d;
    memcpy(p->layer->keys + to, row + q * d, kv * d * sizeof(elem));
    memcpy(p->layer->values + to, row + (q + kv) * d, kv * d * sizeof(elem));
}

/* weights[j] = e^((s[j] - max) scale), rounded as PyTorch's attention does it, after the sum; returns one over the sum. Room for one more weight, which is 0. */
static float softmax(float *s, int length, float scale, elem *weights) {
    float tops[LANES], top, total = 0;
    for (int i = 0; i < LANES; i++) tops[i] = s[0];
    int at = 0;
    for (; at + LANES <= length; at += LANES)
        for (int i = 0; i < LANES; i++) tops[i] = s[at + i] > tops[i] ? s[at + i] : tops[i];
    for (int i = 0; at + i < length; i++) tops[i] = s[at + i] > tops[i] ? s[at + i] : tops[i];
    top = tops[0];
    for (int i = 1; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    for (int j = 0; j < length; j++) total += s[j] = exponential((s[j] - top) * scale);
    for (int j = 0; j < length; j++) weights[j] = put(s[j]);
    weights[length] = 0;
    return 1.f / total;
}

/* sum[g * d + i]: the values of `length` positions by the weights of up to four heads, which lie `stride` apart. */
static void blend(const elem *values, const int32_t *slots, int width, int length, const elem *weights, int64_t stride, int heads, int d, float *sum) {
    memset(sum, 0, heads * d * sizeof *sum);
    int i = 0;
#if DOT_BF16
    for (; i + 64 <= d; i += 64) { /* two positions at a time: their values side by side, as their weights are */
        __m512 acc[4][4];
        const elem *w[4];
        for (int g = 0; g < 4; g++) {
            w[g] = weights + (g < heads ? g : 0) * stride;
            for (int n = 0; n < 4; n++) acc[g][n] = _mm512_setzero_ps();
        }
        for (int j = 0; j < length; j += 2) {
            const elem *first = values + (int64_t)slots[j] * width + i, *second = values + (int64_t)slots[j + 1 < length ? j + 1 : j] * width + i;
            __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(first + 32), c = _mm512_loadu_si512(second), e = _mm512_loadu_si512(second + 32);
            __m512bh v[4] = {(__m512bh)_mm512_unpacklo_epi16(a, c), (__m512bh)_mm512_unpackhi_epi16(a, c),
                             (__m512bh)_mm512_unpacklo_epi16(b, e), (__m512bh)_mm512_unpackhi_epi16(b, e)};
            for (int g = 0; g < 4; g++) {
                int32_t pair;
                memcpy(&pair, w[g] + j, sizeof pair);
                for (int n = 0; n < 4; n++) acc[g][n] = _mm512_dpbf16_ps(acc[g][n], v[n], (__m512bh)_mm512_set1_epi32(pair));
            }
        }
        for (int g = 0; g < heads; g++)
            for (int n = 0; n < 4; n++) { /* lane 4 q + r of an unpacked half holds number 8 q + 4 (n % 2) + r */
                float lanes[16], *to = sum + g * d + i + n / 2 * 32 + n % 2 * 4;
                _mm512_storeu_ps(lanes, acc[g][n]);
                for (int l = 0; l < 16; l++) to[l / 4 * 8 + l % 4] = lanes[l];
            }
    }
#endif
    for (int j = 0; i < d && j < length; j++)
        for (int g = 0; g < heads; g++) {
            const elem *v = values + (int64_t)slots[j] * width;
            float weight = get(weights[g * stride + j]), *to = sum + g * d;
            for (int n = i; n < d; n++) to[n] += weight * get(v[n]);
        }
}

/* one token, the query heads that share one key head */
static void attend(pass_t *p, int64_t t, int h, int thread) {
    const model_t *m = p->model;
    const batch_t *b = &p->batch;
    const int d = (int)m->head_dim, group = (int)(m->heads / m->kv_heads), width = (int)(m->kv_heads * m->head_dim);
    const int64_t row = (m->heads + 2 * m->kv_heads) * d, stride = m->max_context + 1;
    const int length = (int)b->positions[t] + 1; /* what this token may see, itself included */
    const int32_t *slots = b->req_to_token + b->rows[t] * b->row_stride;
    float *scores = p->scores + thread * stride, factor[group], sum[4 * d];
    elem *weights = p->weights + thread * group * stride;
    for (int g = 0; g < group; g++) {
        const elem *q = p->qkv + t * row + (h * group + g) * d, *k[64];
        for (int at = 0; at < length; at += 64) {
            int count = length - at < 64 ? length - at : 64;
            for (int j = 0; j < count; j++) k[j] = p->layer->keys + (int64_t)slots[at + j] * width + h * d;
            dots(&q, 1, k, count, d, scores + at, 0);
        }
        factor[g] = softmax(scores, length, m->scale, weights + g * stride);
    }
    for (int from = 0; from < group; from += 4) {
        int heads = group - from < 4 ? group - from : 4;
        blend(p->layer->values + h * d, slots, width, length, weights + from * stride, stride, heads, d, sum);
        for (int g = 0; g < heads; g++) {
            elem *to = p->attended + (t * m->heads + h * group + from + g) * d;
            for (int i = 0; i < d; i++) to[i] = put(sum[g * d + i] * factor[from + g]);
        }
    }
}

static void attention_task(void *argument, int task, int thread) {
    pass_t *p = argument;
    const int kv = (int)p->model->kv_heads;
    int64_t from = (int64_t)(task / kv) * p->block, to = from + p->block;
    if (to > p->batch.tokens) to = p->batch.tokens;
    for (int64_t t = from; t < to; t++) attend(p, t, task % kv, thread);
}

/* per token, in threads only where it pays */
static void each_token(pass_t *p, job_t job) {
    int tokens = (int)p->batch.tokens;
    if (tokens >= 8) parallel(job, p, tokens);
    else for (int t = 0; t < tokens; t++) job(p, t, 0);
}

static void layers(pass_t *p) {
    const model_t *m = p->model;
    const int hidden = (int)m->hidden, d = (int)m->head_dim, q = (int)m->heads * d, kv = (int)m->kv_heads * d;
    const int blocks = (int)((p->batch.tokens + p->block - 1) / p->block);
    for (int64_t l = 0; l < m->layers; l++) {
        p->layer = m->layer + l;
        each_token(p, l ? norm1_task : start_task);
        product(p, p->normed, p->layer->qkv, p->layer->qkv_bias, p->qkv, 0, hidden, q + 2 * kv);
        each_token(p, rope_task);
        parallel(attention_task, p, blocks * (int)m->kv_heads);
        product(p, p->attended, p->layer->o, p->layer->o_bias, p->out, 0, q, hidden);
        each_token(p, norm2_task);
        p->x = p->normed, p->w = p->layer->gate_up, p->y = p->act, p->k = hidden, p->n = (int)m->inter, p->chunk = chunk_rows(hidden, 2);
        parallel(gate_up_task, p, (p->n + p->chunk - 1) / p->chunk);
        product(p, p->act, p->layer->down, 0, p->out, 0, (int)m->inter, hidden);
    }
    each_token(p, last_norm_task);
}

/* Bytes of scratch memory `forward` needs. */
int64_t scratch_bytes(const model_t *m) {
    int64_t row = 3 * m->hidden + (2 * m->heads + 2 * m->kv_heads) * m->head_dim + m->inter;
    return STEP * row * (int64_t)sizeof(elem) + pool.threads * (m->max_context + 1) * (4 + m->heads / m->kv_heads * (int64_t)sizeof(elem)) + 16 * 64;
}

static void *take(char **at, int64_t bytes) {
    char *here = *at;
    *at += (bytes + 63) / 64 * 64;
    return here;
}

void forward(const model_t *m, const batch_t *b, char *scratch) {
    pass_t p = {.model = m};
    const int64_t e = sizeof(elem);
    scratch = (char *)(((uintptr_t)scratch + 63) / 64 * 64);
    p.residual = take(&scratch, STEP * m->hidden * e);
    p.normed = take(&scratch, STEP * m->hidden * e);
    p.out = take(&scratch, STEP * m->hidden * e);
    p.qkv = take(&scratch, STEP * (m->heads + 2 * m->kv_heads) * m->head_dim * e);
    p.attended = take(&scratch, STEP * m->heads * m->head_dim * e);
    p.act = take(&scratch, STEP * m->inter * e);
    p.scores = take(&scratch, pool.threads * (m->max_context + 1) * 4);
    p.weights = take(&scratch, 0);
    workers(1);
    for (int64_t from = 0; from < b->tokens; from += STEP) { /* later tokens find the earlier ones in the cache */
        p.batch = *b;
        p.batch.tokens = b->tokens - from < STEP ? b->tokens - from : STEP;
        p.batch.ids += from, p.batch.positions += from, p.batch.slots += from, p.batch.rows += from;
        p.block = p.batch.tokens >= 64 ? 8 : 1;
        layers(&p);
        if (b->logits) product(&p, p.normed, m->head, 0, 0, b->logits + from * m->vocab, (int)m->hidden, (int)m->vocab);
        if (b->hidden) memcpy(b->hidden + from * m->hidden, p.normed, p.batch.tokens * m->hidden * e);
    }
    workers(0);
}

/* Logits of rows that `forward` gave: in a prefill only the last one of each request is wanted. */
void head(const model_t *m, const elem *hidden, int64_t rows, float *logits) {
    pass_t p = {.model = m, .batch = {.tokens = rows}};
    workers(1);
    product(&p, hidden, m->head, 0, 0, logits, (int)m->hidden, (int)m->vocab);
    workers(0);
}
