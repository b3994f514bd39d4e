/*
 * What several commands say of a version, in JSON and in words: its ids, its basis, its base model,
 * its message.
 */
#ifndef CLI_DESCRIBE_H
#define CLI_DESCRIBE_H

#include "cli/cli.h"

/* The first 7 digits of a commit, the first 12 of a snapshot: what a person compares and types.
   Used as short_commit(&id).text, good until the full expression ends. */
struct short_id {
    char text[13];
};
struct short_id short_commit(const struct commit_id *id);
struct short_id short_digest(const struct digest *digest);

/* A recipe's seed in digits, "-" where it has none. */
struct seed_text {
    char text[24];
};
struct seed_text seed_text(const struct recipe *recipe);

/* What commit and show print of a snapshot; what is not known is NULL (JSON null). */
struct description {
    const struct snapshot *snapshot;
    const struct loaded_adapter *loaded;
    const struct commit_id *commit;
    const char *branch;
    const struct frame_summary *frame;
    const uint64_t *stored_bytes;
    char *const *left_out; /* NULL with has_left_out: nothing was */
    size_t left_out_count;
    bool has_left_out;
};

void describe_uint_json(struct json_writer *writer, const char *key, uint64_t value);
/* The fields of commit, into an object that is begun. */
void describe_json(struct json_writer *writer, const struct description *description);

/* The fields of a recipe, all but rank, in and out, into an object that is begun. */
void describe_recipe_json(struct json_writer *writer, const struct recipe *recipe);
/* Key "files". */
void describe_files_json(struct json_writer *writer, const struct manifest *manifest);
/* Key "metrics": each name once, with its last value. */
void describe_metrics_json(struct json_writer *writer, const struct version *version);
/* Keys "parents", "message", "author", "time". */
void describe_version_json(struct json_writer *writer, const struct version *version);

/* "proved: seed 0 gives it bit for bit (fma), so it takes no space". */
MUST_CHECK int describe_basis(struct buf *out, const struct recipe *recipe);
/* "optimizer.pt, scheduler.pt and 3 more": as many words as fit into one line. */
struct word_list {
    struct buf *out;
    size_t words, skipped;
    size_t cut, cut_words; /* where the list can end, if more words come than fit */
};
MUST_CHECK int word_list_add(struct word_list *list, const char *word);
MUST_CHECK int word_list_end(struct word_list *list);
MUST_CHECK int describe_names(struct buf *out, char *const *names, size_t count);
/* Two lines: rank and number of modules; and what they are by the last part of their names, with
   counts where these differ: "key 3, query 4". */
MUST_CHECK int describe_adapter_say(struct cli *cli, const struct adapter *adapter);
/* "loss 0.5, rte 0.78"; empty where there are none. */
MUST_CHECK int describe_metrics(struct buf *out, const struct version *version);

/* The line "  <label>  <text>"; none where there is no text. */
MUST_CHECK int describe_say(struct cli *cli, const char *label, struct buf *text);

/* The first line of a message. */
struct bytes message_title(const char *message);
/* The message without the trailers that hold metrics, and without empty lines at its end. */
MUST_CHECK int message_body(struct buf *out, const char *message);
/* The next line of a text, and what is left of it. False where nothing is. */
bool text_next_line(struct bytes *line, struct bytes *text);

/* Warn of what a person may not expect of this basis: stored, since no seed gives it; or declared,
   and not recorded. */
void describe_warnings(const struct recipe *recipe);

#endif
