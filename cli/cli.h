/*
 * What every command of `vera` shares. A command is one file, cli/cmd_<name>.c, with one `struct
 * command`: its options are rows of a table from which parsing, --help, the manual page and shell
 * completion are made. cli/main.c finds the command, parses, opens the repository, runs it, and
 * prints what went wrong; a command returns 0, a negative error, or CLI_DIFFERENT.
 *
 * stdout is the result, stderr is talk (docs/guide.md). With --json the result is JSON on stdout,
 * and the lines for people go to stderr.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdio.h>

#include "format/json.h"
#include "store/store.h"

#define CLI_DIFFERENT 1 /* done, and the answer is "no": exit status 1 without an error */

enum option_kind {
    OPTION_FLAG,  /* bool; --name */
    OPTION_TEXT,  /* const char *; --name VALUE, --name=VALUE, -n VALUE, -nVALUE; the last counts */
    OPTION_LIST,  /* struct cli_list; may be given again and again */
    OPTION_COUNT, /* struct cli_count; an integer from 0 to 2^64-1 */
};

/* What the shell offers for a value or an operand. */
enum complete {
    COMPLETE_NOTHING,
    COMPLETE_FILE,
    COMPLETE_DIRECTORY,
    COMPLETE_REVISION, /* branches and tags */
    COMPLETE_BRANCH,
    COMPLETE_TAG,
    COMPLETE_COMMAND,
    COMPLETE_WORDS, /* the words of `value` (of an operand's `name`), as in "auto|cpu|cuda": nothing
                       else is accepted */
};

struct cli_list {
    const char **values;
    size_t count;
};

struct cli_count {
    bool given;
    uint64_t value;
};

struct option {
    const char *name; /* "branch"; "" where it has only a letter */
    char letter;      /* 'b', or 0 */
    enum option_kind kind;
    size_t target;     /* offsetof() in the command's own struct of arguments */
    const char *value; /* its name in the help, "NAME"; NULL for a flag */
    enum complete complete;
    const char *help; /* one line, no full stop */
};

struct operand {
    const char *name;        /* "DIR" */
    bool optional, repeated; /* only the last ones */
    enum complete complete;
    const char *help;
};

/* One invocation. */
struct cli {
    bool json;
    FILE *human;               /* where lines for people go: stdout, with --json stderr */
    struct progress *progress; /* never NULL; draws nothing where none is wanted */
    struct store *store;       /* open where the command needs one, else NULL */
    const char **operands;     /* what is no option, in order */
    size_t operand_count;
};

enum needs { NEEDS_NOTHING, NEEDS_STORE, MAY_USE_STORE /* opened where there is one */ };

struct command {
    const char *name;
    int (*run)(struct cli *cli, const void *arguments);
    enum needs needs;
    bool no_json;        /* completion, help */
    const char *summary; /* "Record an adapter as a new version" */
    const char
        *details; /* paragraphs for --help and the manual page, separated by "\n\n"; or NULL */
    const char *examples;           /* lines "vera commit out/step-100 -m 'first'"; or NULL */
    const struct operand *operands; /* ends with {0} */
    const struct option *options; /* ends with {0}; --json, --help and --[no-]progress are added */
    size_t arguments_size;        /* of the struct that the options' targets lie in */
};

/* All commands in the order of the help, NULL-terminated (cli/commands.c). */
extern const struct command *const commands[];

/* Each is defined in its cli/cmd_<name>.c and is a row of cli/commands.c. */
extern const struct command command_apply, command_basis, command_branch, command_cherry_pick,
    command_clone, command_commit, command_completion, command_diff, command_export, command_fetch,
    command_fsck, command_gc, command_help, command_init, command_log, command_merge, command_prune,
    command_publish, command_pull, command_push, command_query, command_reindex, command_remote,
    command_reset, command_revert, command_show, command_stats, command_swap, command_switch,
    command_tag, command_verify;

/* An error in how the command was called: exit status 2, "INVALID" in JSON, and a hint to the
   command's --help where no other was given. Returns CLI_USAGE, which passes up like any code. */
#define CLI_USAGE (-64)
MUST_CHECK int cli_usage_error(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* One line for people; the newline is added. Control characters, and bytes that are not UTF-8,
   become \xNN: nothing in a name reaches a terminal. So a text of several lines is said line by
   line. */
void cli_say(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same to stderr, always: "vera: warning: ...", "hint: ...". */
void cli_note(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* JSON result: begin an object, fill it, end it: one line on stdout. Between the two nothing is
   printed, so a failure leaves no half of it. */
void cli_json_begin(struct json_writer *writer, struct buf *buf);
MUST_CHECK int cli_json_end(struct json_writer *writer);
/* A NULL digest or commit: null. */
void cli_json_digest(
    struct json_writer *writer, const char *key, const struct digest *digest, bool is_snapshot
);
void cli_json_commit(struct json_writer *writer, const char *key, const struct commit_id *id);

/* Columns of the terminal that stdout is; where it is none, $COLUMNS, else 80. */
size_t cli_width(void);
/* The same where stdout is a terminal, else no limit: what is not looked at there is not cut. */
size_t cli_room(void);
/* Columns that a text takes: its characters. */
size_t cli_columns(struct bytes text);
/* Append the text in at most `width` columns, at least 4: of a longer one the middle gives way,
   since both ends of a module's name tell something. Never inside a character. */
MUST_CHECK int cli_fit(struct buf *out, const char *text, size_t width);

/* "1.2 MB", "980 B" in a static buffer that is good for four calls. */
const char *cli_size(uint64_t bytes);
/* "2026-11-24 18:03:11 +0100"; JSON has ISO 8601 "2026-11-24T18:03:11+01:00". */
void cli_time(char out[32], time_t time, int offset_minutes, bool json);

/*
 * What a command reads as a version: a revision, else a PEFT directory (cli/source.c). A revision
 * goes before a directory of that name; "./NAME" is always the directory. Errors name both.
 */
struct source {
    struct snapshot snapshot;
    struct loaded_adapter loaded; /* into snapshot */
    bool is_version;              /* `commit` is valid */
    struct commit_id commit;
    struct adapter_files files; /* of a directory, with what was left out; else empty */
};
#define AUTO_SOURCE(name) __attribute__((cleanup(source_release))) struct source name = {0}
/* `cli->store` may be NULL: then only directories. */
MUST_CHECK int source_load(struct source *out, struct cli *cli, const char *text);
void source_release(struct source *source);

#endif
