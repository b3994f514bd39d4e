/*
 * Tests of store/certificates.c: libgit2 starts without the system's certificates, and has them
 * when it is asked to. dlsym() is this program's, so that the mbedTLS function behind ours is, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <git2.h>
#include <stdio.h>

#include "store/certificates.h"

int mbedtls_x509_crt_parse_file(void *chain, const char *path);
void *__wrap_dlsym(void *handle, const char *name);

/* What mbedTLS would be asked for. */
static unsigned parsed;
static char parsed_path[256];
static int answer;

static int parse(void *chain, const char *path)
{
    (void)chain;
    parsed++;
    snprintf(parsed_path, sizeof(parsed_path), "%s", path);
    return answer;
}

void *__wrap_dlsym(void *handle, const char *name)
{
    int (*function)(void *, const char *) = parse;
    void *symbol;

    (void)handle;
    assert_string_equal(name, "mbedtls_x509_crt_parse_file");
    memcpy(&symbol, &function, sizeof(symbol));
    return symbol;
}

/* The whole path, as libgit2 goes it at its start and in certificates_load(NULL), where it is built
   with mbedTLS and the system has certificates; else there is nothing to put off. */
static void starting_reads_no_certificates_and_loading_reads_them_once(void **state)
{
    (void)state;
    assert_true(certificates_put_off() > 0);
    assert_int_equal(parsed, 0);
    assert_null(git_error_last());

    answer = -1;
    int failed = certificates_load(NULL);
    unsigned asked = parsed;
    if (asked) {
        assert_int_equal(failed, E_IO);
        assert_non_null(strstr(error_message(), parsed_path));
    } else {
        assert_int_equal(failed, 0);
    }
    answer = 0;
    assert_int_equal(certificates_load(NULL), 0);
    assert_int_equal(parsed, 2 * asked);
    assert_int_equal(certificates_load(NULL), 0);
    assert_int_equal(parsed, 2 * asked);
}

static void a_file_that_is_given_later_is_read_at_once(void **state)
{
    unsigned before = parsed;

    (void)state;
    answer = 7;
    assert_int_equal(mbedtls_x509_crt_parse_file(NULL, "/some/file.pem"), 7);
    assert_int_equal(parsed, before + 1);
    assert_string_equal(parsed_path, "/some/file.pem");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starting_reads_no_certificates_and_loading_reads_them_once),
        cmocka_unit_test(a_file_that_is_given_later_is_read_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
