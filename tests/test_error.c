/* Tests of format/error.c: one text is one line, and what does not fit is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "format/error.h"

static void a_failure_says_its_message_its_details_and_its_hint(void **state)
{
    (void)state;
    assert_int_equal(error_set(E_INVALID, "%d of %d modules", 63, 64), E_INVALID);
    assert_int_equal(error_detail(E_INVALID, "missing: %s", "q"), E_INVALID);
    assert_int_equal(error_detail(E_INVALID, "shape: %s", "v"), E_INVALID);
    assert_int_equal(error_wrap(E_INVALID, "apply '%s'", "main"), E_INVALID);
    assert_int_equal(error_hint(E_INVALID, "try %s", "less"), E_INVALID);
    assert_string_equal(
        error_message(), "apply 'main': 63 of 64 modules\n  missing: q\n  shape: v"
    );
    assert_string_equal(error_hint_text(), "try less");
}

static void a_new_failure_forgets_the_old_one(void **state)
{
    (void)state;
    (void)!error_set(E_INVALID, "old");
    (void)!error_hint(E_INVALID, "old hint");
    assert_int_equal(error_set(E_IO, "new"), E_IO);
    assert_string_equal(error_message(), "new");
    assert_null(error_hint_text());
}

static void a_failure_is_carried_to_another_thread_whole(void **state)
{
    (void)state;
    (void)!error_set(E_INVALID, "one");
    (void)!error_detail(E_INVALID, "two");
    char *without_hint = error_pack();
    (void)!error_hint(E_INVALID, "three");
    char *with_hint = error_pack();

    (void)!error_set(E_IO, "other");
    assert_int_equal(error_unpack(E_INVALID, with_hint), E_INVALID);
    assert_string_equal(error_message(), "one\n  two");
    assert_string_equal(error_hint_text(), "three");
    assert_int_equal(error_unpack(E_INVALID, without_hint), E_INVALID);
    assert_string_equal(error_message(), "one\n  two");
    assert_null(error_hint_text());
    assert_int_equal(error_unpack(E_NOMEM, NULL), E_NOMEM);
    assert_string_equal(error_message(), "NOMEM");
}

static void a_line_feed_in_a_name_begins_no_line(void **state)
{
    (void)state;
    (void)!error_set(E_INVALID, "'%s'", "a\nb\n");
    (void)!error_detail(E_INVALID, "'%s'", "c\n  d");
    (void)!error_wrap(E_INVALID, "'%s'", "\n");
    (void)!error_hint(E_INVALID, "'%s'", "e\nf");
    assert_string_equal(error_message(), "'\\x0a': 'a\\x0ab\\x0a'\n  'c\\x0a  d'");
    assert_string_equal(error_hint_text(), "'e\\x0af'");
}

static void what_is_kept_is_said_again(void **state)
{
    (void)state;
    (void)!error_set(E_IO, "first");
    (void)!error_detail(E_IO, "detail");
    (void)!error_hint(E_IO, "hint");
    error_keep();
    (void)!error_set(E_NOMEM, "second, while undoing the first");
    assert_int_equal(error_restore(E_IO), E_IO);
    assert_string_equal(error_message(), "first\n  detail");
    assert_string_equal(error_hint_text(), "hint");
    (void)!error_set(E_INVALID, "without a hint");
    error_keep();
    (void)!error_hint(E_INVALID, "another's");
    (void)!error_restore(E_INVALID);
    assert_null(error_hint_text());
}

static void texts_of_any_length_fit(void **state)
{
    (void)state;
    char name[5000];

    for (size_t lines = 0; lines < 2; lines++) {
        memset(name, lines ? '\n' : 'x', sizeof(name));
        name[sizeof(name) - 1] = '\0';
        (void)!error_set(E_INVALID, "%s", name);
        assert_true(strlen(error_message()) > 1000);
        (void)!error_hint(E_INVALID, "%s", name);
        for (int i = 0; i < 100; i++) {
            (void)!error_wrap(E_INVALID, "%s", name);
            (void)!error_detail(E_INVALID, "%s", name);
        }
        assert_true(strlen(error_message()) < 65536);
    }
}

static void details_that_do_not_fit_are_counted(void **state)
{
    (void)state;
    (void)!error_set(E_INVALID, "many");
    for (int i = 0; i < 10000; i++)
        (void)!error_detail(E_INVALID, "module model.layers.%d.self_attn.q_proj", i);
    const char *last = strrchr(error_message(), '\n');
    int kept = 0;
    for (const char *at = error_message(); (at = strchr(at, '\n')); at++)
        kept++;
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "\n  ... and %d more", 10000 - (kept - 1));
    assert_string_equal(last, wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_says_its_message_its_details_and_its_hint),
        cmocka_unit_test(a_new_failure_forgets_the_old_one),
        cmocka_unit_test(a_failure_is_carried_to_another_thread_whole),
        cmocka_unit_test(a_line_feed_in_a_name_begins_no_line),
        cmocka_unit_test(what_is_kept_is_said_again),
        cmocka_unit_test(texts_of_any_length_fit),
        cmocka_unit_test(details_that_do_not_fit_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
