/* The two loops of a graft that take the most time: counting the values of a histogram, and blending.
 *
 * Each gives the same bits as the functions in information.py and blending.py, which take over where this file was
 * not compiled. Arguments are buffers of float32. The caller checks their types and lengths.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 4096 /* values that stay in the first-level cache */
#define MOST_MOVED 16

#if defined(__x86_64__) && defined(__GNUC__)
#define VARIANTS 1
#define INLINE static inline __attribute__((always_inline))
#else
#define VARIANTS 0
#define INLINE static inline
#endif

typedef struct {
    float *own;
    const float *scion, *past; /* past: NULL for a plain blend */
    float *moved[MOST_MOVED], *noted;
    int num_moved;
    float alpha, share;
    size_t length;
} Blend;

INLINE float blended_value(float old, float scion, float past, float alpha, float share, int has_past, int has_fma) {
    if (!has_past) {
        float kept = old * alpha, taken = scion * share;
        return kept + taken;
    }
    float difference = scion - past;
    return has_fma ? fmaf(difference, share, old) : old + share * difference;
}

/* The usual case, one pass: a past, one moved tensor (which may be the past), one noted tensor (which may be too). */
INLINE void blend_one_moved(const Blend *item, int has_past, int has_fma) {
    float *own = item->own, *moved = item->moved[0], *noted = item->noted;
    const float *scion = item->scion, *past = item->past;
    float alpha = item->alpha, share = item->share;
#pragma GCC ivdep
    for (size_t i = 0; i < item->length; i++) {
        float old = own[i], then = has_past ? past[i] : 0.0f;
        float blended = blended_value(old, scion[i], then, alpha, share, has_past, has_fma);
        own[i] = blended;
        moved[i] += blended - old;
        noted[i] = blended;
    }
}

INLINE void blend_values(const Blend *item, int has_fma) {
    if (item->num_moved == 1 && item->noted) {
        item->past ? blend_one_moved(item, 1, has_fma) : blend_one_moved(item, 0, has_fma);
        return;
    }
    float change[BLOCK];
    for (size_t start = 0; start < item->length; start += BLOCK) {
        size_t size = item->length - start < BLOCK ? item->length - start : BLOCK;
        float *own = item->own + start;
        const float *scion = item->scion + start;
        const float *past = item->past ? item->past + start : NULL;
        for (size_t i = 0; i < size; i++) {
            float old = own[i], then = past ? past[i] : 0.0f;
            own[i] = blended_value(old, scion[i], then, item->alpha, item->share, past != NULL, has_fma);
            change[i] = own[i] - old;
        }
        for (int number = 0; number < item->num_moved; number++) {
            float *moved = item->moved[number] + start;
            for (size_t i = 0; i < size; i++) moved[i] += change[i];
        }
        if (item->noted) memcpy(item->noted + start, own, size * sizeof(float));
    }
}

#define LANES 16

/* Least and greatest value. Returns whether all values are finite. */
INLINE int find_extremes(const float *values, size_t length, float *extremes) {
    float low[LANES], high[LANES], least, greatest;
    uint32_t bad[LANES] = {0}, any_bad = 0;
    size_t whole = length - length % LANES;
    for (int lane = 0; lane < LANES; lane++) low[lane] = high[lane] = values[0];
    for (size_t start = 0; start < whole; start += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            float value = values[start + lane];
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            low[lane] = value < low[lane] ? value : low[lane];
            high[lane] = value > high[lane] ? value : high[lane];
            bad[lane] |= (bits & 0x7f800000u) == 0x7f800000u;
        }
    }
    least = greatest = values[0];
    for (int lane = 0; lane < LANES; lane++) {
        least = low[lane] < least ? low[lane] : least;
        greatest = high[lane] > greatest ? high[lane] : greatest;
        any_bad |= bad[lane];
    }
    for (size_t i = whole; i < length; i++) {
        least = values[i] < least ? values[i] : least;
        greatest = values[i] > greatest ? values[i] : greatest;
        any_bad |= !isfinite(values[i]);
    }
    extremes[0] = least;
    extremes[1] = greatest;
    return !any_bad;
}

/* The nine inner edges of ten cells, the usual number: each value is read once. */
INLINE void count_nine(const float *values, size_t length, const float *edges, int64_t *counts) {
    const float e0 = edges[0], e1 = edges[1], e2 = edges[2], e3 = edges[3], e4 = edges[4];
    const float e5 = edges[5], e6 = edges[6], e7 = edges[7], e8 = edges[8];
    for (size_t start = 0; start < length; start += 1 << 20) {
        size_t stop = length - start < 1 << 20 ? length : start + (1 << 20);
        int32_t c0 = 0, c1 = 0, c2 = 0, c3 = 0, c4 = 0, c5 = 0, c6 = 0, c7 = 0, c8 = 0;
        for (size_t i = start; i < stop; i++) {
            float value = values[i];
            c0 += value >= e0;
            c1 += value >= e1;
            c2 += value >= e2;
            c3 += value >= e3;
            c4 += value >= e4;
            c5 += value >= e5;
            c6 += value >= e6;
            c7 += value >= e7;
            c8 += value >= e8;
        }
        const int32_t found[9] = {c0, c1, c2, c3, c4, c5, c6, c7, c8};
        for (int edge = 0; edge < 9; edge++) counts[edge] += found[edge];
    }
}

INLINE void count_values(const float *values, size_t length, const float *edges, int num_edges, int64_t *counts) {
    if (num_edges == 9) {
        count_nine(values, length, edges, counts);
        return;
    }
    for (size_t start = 0; start < length; start += BLOCK) {
        size_t size = length - start < BLOCK ? length - start : BLOCK;
        for (int edge = 0; edge < num_edges; edge++) {
            float least = edges[edge];
            int32_t count = 0;
            for (size_t i = 0; i < size; i++) count += values[start + i] >= least;
            counts[edge] += count;
        }
    }
}

#define MOST_BINS 256

/* Values at or above each inner edge of `bins` cells between the extremes. Returns whether all values are finite. */
INLINE int count_layer(const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    float edges[MOST_BINS];
    if (!find_extremes(values, length, extremes)) return 0;
    float width = (extremes[1] - extremes[0]) / (float)bins;
    for (int edge = 1; edge < bins; edge++) {
        float offset = (float)edge * width;
        edges[edge - 1] = extremes[0] + offset;
    }
    count_values(values, length, edges, bins - 1, counts);
    return 1;
}

#if VARIANTS
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq"))) static void blend_512(const Blend *item) { blend_values(item, 1); }
__attribute__((target("avx2,fma"))) static void blend_256(const Blend *item) { blend_values(item, 1); }
static void blend_plain(const Blend *item) { blend_values(item, 0); }
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq"))) static int count_512(
    const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    return count_layer(values, length, bins, counts, extremes);
}
__attribute__((target("avx2,fma"))) static int count_256(
    const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    return count_layer(values, length, bins, counts, extremes);
}
static int count_plain(const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    return count_layer(values, length, bins, counts, extremes);
}
static int level(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static void run_blend(const Blend *item) {
    int found = level();
    found == 2 ? blend_512(item) : found ? blend_256(item) : blend_plain(item);
}
static int run_count(const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    int found = level();
    return (found == 2 ? count_512 : found ? count_256 : count_plain)(values, length, bins, counts, extremes);
}
#else
static void run_blend(const Blend *item) { blend_values(item, 1); }
static int run_count(const float *values, size_t length, int bins, int64_t *counts, float *extremes) {
    return count_layer(values, length, bins, counts, extremes);
}
#endif

/* blend(own, scion, past, moved, noted, alpha, share, length): addresses as integers, 0 for none; moved is a tuple. */
static PyObject *blend(PyObject *self, PyObject *args) {
    unsigned long long own, scion, past, noted;
    PyObject *moved;
    double alpha, share;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "KKKO!Kddn", &own, &scion, &past, &PyTuple_Type, &moved, &noted, &alpha, &share, &length))
        return NULL;
    Blend item = {0};
    item.own = (float *)(uintptr_t)own;
    item.scion = (const float *)(uintptr_t)scion;
    item.past = (const float *)(uintptr_t)past;
    item.noted = (float *)(uintptr_t)noted;
    item.alpha = (float)alpha;
    item.share = (float)share;
    item.length = (size_t)length;
    item.num_moved = (int)PyTuple_GET_SIZE(moved);
    if (item.num_moved > MOST_MOVED) {
        PyErr_Format(PyExc_ValueError, "at most %d tensors can be moved", MOST_MOVED);
        return NULL;
    }
    for (int number = 0; number < item.num_moved; number++) {
        unsigned long long address = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(moved, number));
        if (PyErr_Occurred()) return NULL;
        item.moved[number] = (float *)(uintptr_t)address;
    }
    Py_BEGIN_ALLOW_THREADS
    run_blend(&item);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* count(values, length, bins, counts, extremes): returns whether all values are finite. `counts` (int64) grow by the
 * values at or above each of the bins - 1 inner edges, and `extremes` (float32) become least and greatest value. */
static PyObject *count(PyObject *self, PyObject *args) {
    unsigned long long values, counts, extremes;
    Py_ssize_t length;
    int bins, are_finite;
    if (!PyArg_ParseTuple(args, "KniKK", &values, &length, &bins, &counts, &extremes)) return NULL;
    if (bins < 2 || bins > MOST_BINS || length < 1) {
        PyErr_Format(PyExc_ValueError, "bins must lie in [2, %d] and there must be a value", MOST_BINS);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    are_finite = run_count((const float *)(uintptr_t)values, (size_t)length, bins, (int64_t *)(uintptr_t)counts,
                           (float *)(uintptr_t)extremes);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(are_finite);
}

static PyMethodDef methods[] = {
    {"blend", blend, METH_VARARGS, "Blend float32 values. See blending.py."},
    {"count", count, METH_VARARGS, "Count float32 values by the cells of a histogram. See information.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_loops", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__loops(void) { return PyModule_Create(&definition); }
