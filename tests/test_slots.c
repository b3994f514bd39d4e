/*
 * Tests of apply/slots.c: random calls beside a plain list that is searched from end to end, and
 * every allocation failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apply/slots.h"
#include "tests/fault.h"

#define IDS 60u

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* Few different beginnings, so that the searches in the table meet. */
static struct digest id_of(uint32_t number)
{
    struct digest id = {{0}};

    id.bytes[0] = (uint8_t)(number % 3 ? 0xfe : 0xff);
    id.bytes[1] = id.bytes[2] = id.bytes[3] = 0xff;
    id.bytes[31] = (uint8_t)number;
    return id;
}

/* What each id's adapter is, by plain search. */
struct known {
    bool listed, pinned;
    uint32_t slot, holds, used; /* used: when */
};

static struct known known[IDS];
static uint32_t orphan_slot[256], orphan_holds[256], orphans; /* removed while held */
static uint32_t now;

static uint32_t oldest_known(void)
{
    uint32_t oldest = IDS;

    for (uint32_t i = 0; i < IDS; i++) {
        if (known[i].listed && !known[i].pinned && !known[i].holds &&
            (oldest == IDS || known[i].used < known[oldest].used))
            oldest = i;
    }
    return oldest;
}

static uint32_t busy(void)
{
    uint32_t count = orphans;

    for (uint32_t i = 0; i < IDS; i++)
        count += known[i].listed;
    return count;
}

static void do_add(struct slots *slots, uint32_t number)
{
    struct digest id = id_of(number);
    uint32_t oldest = oldest_known();
    bool full = busy() == slots->capacity;

    uint32_t slot = slots_take(slots);
    if (full && oldest == IDS) {
        assert_int_equal(slot, SLOTS_NONE);
        return;
    }
    assert_true(slot < slots->capacity);
    if (full) {
        assert_int_equal(slot, known[oldest].slot);
        known[oldest] = (struct known){0};
    }
    if (random_below(8) == 0) {
        slots_return(slots, slot);
        return;
    }
    slots_list(slots, slot, &id);
    known[number] = (struct known){.listed = true, .slot = slot, .used = ++now};
}

static void do_remove(struct slots *slots, uint32_t number)
{
    slots_remove(slots, known[number].slot);
    if (known[number].holds) {
        orphan_slot[orphans] = known[number].slot;
        orphan_holds[orphans++] = known[number].holds;
    }
    known[number] = (struct known){0};
}

static void do_drop(struct slots *slots, uint32_t number)
{
    if (known[number].holds) {
        slots_drop(slots, known[number].slot);
        if (--known[number].holds == 0)
            known[number].used = ++now;
    } else if (orphans) {
        slots_drop(slots, orphan_slot[orphans - 1]);
        orphans -= --orphan_holds[orphans - 1] == 0;
    }
}

static void do_pin(struct slots *slots, uint32_t number)
{
    bool pin = !known[number].pinned;

    slots_pin(slots, known[number].slot, pin);
    slots_pin(slots, known[number].slot, pin); /* again: nothing */
    known[number].pinned = pin;
    if (!pin && !known[number].holds)
        known[number].used = ++now;
}

static void do_something(struct slots *slots)
{
    uint32_t number = random_below(IDS), what = random_below(10);

    if (!known[number].listed) {
        do_add(slots, number);
    } else if (what < 3) {
        slots_hold(slots, known[number].slot);
        known[number].holds++;
    } else if (what < 7) {
        do_drop(slots, number);
    } else if (what < 8) {
        do_pin(slots, number);
    } else if (what < 9) {
        do_remove(slots, number);
    }
}

static void check_all(const struct slots *slots)
{
    uint32_t count = 0, pinned = 0, held = orphans;

    for (uint32_t i = 0; i < IDS; i++) {
        struct digest id = id_of(i);
        assert_int_equal(slots_find(slots, &id), known[i].listed ? known[i].slot : SLOTS_NONE);
        count += known[i].listed;
        pinned += known[i].pinned;
        held += known[i].holds > 0;
        if (known[i].listed)
            assert_int_equal(slots_is_held(slots, known[i].slot), known[i].holds > 0);
    }
    assert_int_equal(slots->count, count);
    assert_int_equal(slots->pinned, pinned);
    assert_int_equal(slots->held, held);
}

static void any_calls_leave_what_a_plain_list_has(void **state)
{
    static const uint32_t capacities[] = {1, 2, 7, 20, 64};

    (void)state;
    for (size_t n = 0; n < sizeof(capacities) / sizeof(capacities[0]); n++) {
        struct slots slots;
        memset(known, 0, sizeof(known));
        orphans = now = 0;
        random_state = (uint32_t)n;
        assert_int_equal(slots_init(&slots, capacities[n]), 0);
        for (unsigned step = 0; step < 20000; step++) {
            do_something(&slots);
            if (step % 16 == 0)
                check_all(&slots);
        }
        assert_true(slots.capacity > IDS || slots.evicted > 0);
        slots_release(&slots);
    }
}

static void without_memory_there_are_no_slots(void **state)
{
    struct slots slots = {.count = 77};

    (void)state;
    for (int n = 0; n < 2; n++) {
        fault_after = n;
        assert_int_equal(slots_init(&slots, 5), E_NOMEM);
        assert_int_equal(slots.count, 77);
    }
    fault_after = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_calls_leave_what_a_plain_list_has),
        cmocka_unit_test(without_memory_there_are_no_slots),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
