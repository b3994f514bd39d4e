/*
 * The three-way rule, for whatever two sides may have changed since their base: what one side alone
 * changed is that side's, what both changed alike is theirs both, what both changed differently is
 * a conflict. That something is not there is a content like any other.
 */
#ifndef APPLY_THREE_WAY_H
#define APPLY_THREE_WAY_H

#include "format/buf.h"

struct content {
    bool there;
    struct bytes bytes;
};

bool content_equal(const struct content *a, const struct content *b);

enum three_way {
    WAY_BASE, /* all three are equal */
    WAY_OURS,
    WAY_THEIRS,
    WAY_BOTH, /* ours is theirs, and not the base */
    WAY_CONFLICT,
};
enum three_way three_way(bool ours_is_base, bool theirs_is_base, bool ours_is_theirs);
enum three_way three_way_contents(
    const struct content *base, const struct content *ours, const struct content *theirs
);

/* Who is right where both changed something: nobody (a conflict), or one side. */
enum three_way_prefer { PREFER_NONE, PREFER_OURS, PREFER_THEIRS };
enum three_way three_way_settle(enum three_way way, enum three_way_prefer prefer);

/* What is in conflict, in the order it was found. */
struct conflict {
    char *name; /* "README.md", "adapter_config.json: r", a tensor or a module */
    char *why;
};
struct conflicts {
    struct conflict *items;
    size_t count;
};

#define AUTO_CONFLICTS(name) __attribute__((cleanup(conflicts_release))) struct conflicts name = {0}
MUST_CHECK int conflicts_add(struct conflicts *conflicts, const char *name, const char *why);
void conflicts_release(struct conflicts *conflicts);

#endif
