/* gitignore patterns (gitignore(5)) of one file, for the directory that it lies in. */
#ifndef FORMAT_IGNORE_H
#define FORMAT_IGNORE_H

#include "format/buf.h"

struct ignore_rule {
    char *pattern;
    bool negated, directory_only, anchored;
};

struct ignore {
    struct ignore_rule *rules;
    size_t count;
};

#define AUTO_IGNORE(name) __attribute__((cleanup(ignore_release))) struct ignore name = {0}

enum ignore_verdict { IGNORE_SILENT, IGNORE_OUT, IGNORE_IN };

MUST_CHECK int ignore_decode(struct ignore *out, struct bytes text);
void ignore_release(struct ignore *ignore);

/* What the last matching rule says of this very path (its parent folders are asked by the walk). */
enum ignore_verdict ignore_match(const struct ignore *ignore, const char *path, bool is_directory);

#endif
