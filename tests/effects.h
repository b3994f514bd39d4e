/*
 * Effects for tests of the algebra: those of the fixtures, those that a seed makes up, and the
 * reference: dW itself, built element by element in long double.
 */
#ifndef TESTS_EFFECTS_H
#define TESTS_EFFECTS_H

#include <math.h>

#include "apply/effect.h"
#include "apply/match.h"
#include "tests/adapters.h"

static inline void must(int err)
{
    if (err < 0)
        fail_msg("%s", error_message());
}

/* An adapter of the fixtures, its basis, and the sizes of the modules' inputs. */
struct actor {
    struct subject subject;
    struct basis basis;
    struct effects effects;
    uint64_t *in; /* [effects.count] */
};

static inline void actor_release(struct actor *actor)
{
    effects_release(&actor->effects);
    basis_release(&actor->basis);
    subject_release(&actor->subject);
    free(actor->in);
}

#define AUTO_ACTOR(name) __attribute__((cleanup(actor_release))) struct actor name = {0}

/* MiniLM's weights are not among the fixtures, its sizes are no secret. */
static inline void minilm_sizes(uint64_t *in, const struct adapter *adapter)
{
    for (size_t i = 0; i < adapter->module_count; i++) {
        const char *name = adapter->modules[i].name;
        bool wide = strstr(name, ".output.dense") && !strstr(name, ".attention.");
        in[i] = wide ? 1536 : 384;
    }
}

static inline void model_sizes(struct actor *actor, const char *name)
{
    AUTO_MODEL(model);
    AUTO_MATCH(match);
    const struct adapter *adapter = &actor->subject.loaded.adapter;

    must(model_open(&model, fixture_base(name)));
    must(match_make(&match, adapter, &model));
    for (size_t i = 0; i < adapter->module_count; i++)
        actor->in[i] = match.modules[i].in;
    must(basis_load(&actor->basis, &actor->subject.loaded, match.in_max, match.out_max, match.dtype)
    );
}

/* "llama/step-120" */
static inline void actor_open(struct actor *actor, const char *name)
{
    const struct loaded_adapter *loaded = &actor->subject.loaded;

    fixture_open(&actor->subject, name, NULL);
    actor->in = array_new(loaded->adapter.module_count, sizeof(*actor->in));
    assert_non_null(actor->in);
    if (fixture_base(name))
        model_sizes(actor, name);
    else {
        minilm_sizes(actor->in, &loaded->adapter);
        must(basis_load(&actor->basis, loaded, 1536, 1536, DTYPE_F32));
    }
    must(effects_init(&actor->effects, loaded, &actor->basis));
}

/* Two adapters of one model as pairs, which the caller frees. */
static inline struct effect_pair *pairs_new(const struct actor *a, const struct actor *b)
{
    const struct adapter *adapter = &a->subject.loaded.adapter;
    struct effect_pair *pairs = array_new(adapter->module_count, sizeof(*pairs));

    assert_non_null(pairs);
    assert_int_equal(adapter->module_count, b->effects.count);
    for (size_t i = 0; i < adapter->module_count; i++)
        pairs[i] = (struct effect_pair){
            .name = adapter->modules[i].name,
            .in = a->in[i],
            .out = adapter->modules[i].out,
            .a = a->effects.modules[i],
            .b = b->effects.modules[i],
        };
    return pairs;
}

/* Numbers that a seed makes up */

static uint64_t random_state;

static inline uint64_t random_u64(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t x = random_state;
    x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return x ^ x >> 32;
}

static inline uint64_t random_below(uint64_t n)
{
    return random_u64() % n;
}

/* -1 to 1, a float32 value */
static inline float random_float(void)
{
    return (float)((double)(int64_t)random_u64() * 0x1p-63);
}

static inline double *random_vector(size_t count, double scale)
{
    double *values = array_new(count, sizeof(*values));

    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = (double)(float)((double)random_float() * scale);
    return values;
}

static inline void random_basis(struct basis *basis, uint64_t rank, uint64_t in, uint64_t out)
{
    *basis = (struct basis){.rank = rank, .in = in, .out = out};
    basis->a = array_new((size_t)(rank * in), sizeof(float));
    basis->b = array_new((size_t)(out * rank), sizeof(float));
    assert_non_null(basis->a);
    assert_non_null(basis->b);
    for (uint64_t i = 0; i < rank * in; i++)
        basis->a[i] = random_float();
    for (uint64_t i = 0; i < out * rank; i++)
        basis->b[i] = random_float();
}

/* The reference */

/* Add weight * dW to w [out, in]. */
static inline void effect_add(
    long double *w, const struct effect *effect, uint64_t in, uint64_t out, long double weight
)
{
    const struct basis *basis = effect->basis;

    for (uint64_t i = 0; basis && i < out; i++) {
        for (uint64_t k = 0; k < basis->rank; k++) {
            long double left = weight * (long double)effect->b[i] * (long double)effect->d[k] *
                               (long double)basis->b[i * basis->rank + k];
            for (uint64_t j = 0; j < in; j++)
                w[i * in + j] += left * (long double)basis->a[k * basis->in + j];
        }
    }
}

static inline long double *effect_build(const struct effect *effect, uint64_t in, uint64_t out)
{
    long double *w = array_new((size_t)(in * out), sizeof(*w));

    assert_non_null(w);
    effect_add(w, effect, in, out, 1);
    return w;
}

static inline long double inner(const long double *a, const long double *b, uint64_t count)
{
    long double sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

static inline bool is_near(double value, long double wanted, long double tolerance)
{
    return fabsl((long double)value - wanted) <= tolerance;
}

#endif
