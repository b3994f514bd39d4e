/*
 * What merge, revert and cherry-pick share: a three-way merge of versions, and the commit that it
 * becomes. revert REV is one over REV of HEAD and REV's parent; cherry-pick REV is one over REV's
 * parent of HEAD and REV.
 */
#ifndef CLI_MERGING_H
#define CLI_MERGING_H

#include "apply/merge_adapter.h"
#include "cli/cli.h"

enum { VERSION_BASE, VERSION_OURS, VERSION_THEIRS, VERSIONS };

/* What the commands take. */
struct merging_arguments {
    const char *strategy, *weight, *max_residual, *message, *base;
    bool dry_run, report;
};

/* The rows of a command whose struct of arguments is the above. */
#define MERGING_FIELD(name) offsetof(struct merging_arguments, name)
#define MERGING_OPTIONS                                                                            \
    {"strategy",                                                                                   \
     's',                                                                                          \
     OPTION_TEXT,                                                                                  \
     MERGING_FIELD(strategy),                                                                      \
     "task|average|ours|theirs",                                                                   \
     COMPLETE_WORDS,                                                                               \
     "What a module gets that both sides changed (task)"},                                         \
        {"weight",                                                                                 \
         'w',                                                                                      \
         OPTION_TEXT,                                                                              \
         MERGING_FIELD(weight),                                                                    \
         "W",                                                                                      \
         COMPLETE_NOTHING,                                                                         \
         "How much of theirs: task 1, average 0.5"},                                               \
        {"max-residual",                                                                           \
         0,                                                                                        \
         OPTION_TEXT,                                                                              \
         MERGING_FIELD(max_residual),                                                              \
         "X",                                                                                      \
         COMPLETE_NOTHING,                                                                         \
         "Refuse a merge that loses more of the changes than this (0.25)"},                        \
        {"message",                                                                                \
         'm',                                                                                      \
         OPTION_TEXT,                                                                              \
         MERGING_FIELD(message),                                                                   \
         "MSG",                                                                                    \
         COMPLETE_NOTHING,                                                                         \
         "The new version's message"},                                                             \
        {"base",                                                                                   \
         0,                                                                                        \
         OPTION_TEXT,                                                                              \
         MERGING_FIELD(base),                                                                      \
         "MODEL",                                                                                  \
         COMPLETE_DIRECTORY,                                                                       \
         "The base model's directory, where no pin was recorded"},                                 \
        {"dry-run",                                                                                \
         'n',                                                                                      \
         OPTION_FLAG,                                                                              \
         MERGING_FIELD(dry_run),                                                                   \
         NULL,                                                                                     \
         COMPLETE_NOTHING,                                                                         \
         "Say what would come out, change nothing"},                                               \
    {                                                                                              \
        "report", 0, OPTION_FLAG, MERGING_FIELD(report), NULL, COMPLETE_NOTHING,                   \
            "Tell each module, and the LoRA rank that would keep the change"                       \
    }

/* The arguments as numbers. */
struct merging_settings {
    const char *strategy; /* its name */
    enum three_way_prefer prefer;
    struct merge_options options;
    double max_residual;
};

/* What a command asks for. */
struct merging_task {
    const struct merging_arguments *arguments;
    struct commit_id commits[VERSIONS];
    const char *names[VERSIONS]; /* for errors: "the merge base", "HEAD", "side" */
    const char *branch;          /* the current one */
    bool is_merge;               /* theirs becomes the second parent */
    const char *message;         /* where the person gave none */
    const char *author;          /* NULL: who runs it */
    const char *action;          /* for the reflog: "merge side", "revert" */
};

/* One merge, from reading to printing. */
struct merging {
    const struct merging_task *task;
    struct progress *progress;
    struct merging_settings settings;
    struct source sources[VERSIONS];
    struct adapter_files files[VERSIONS];
    struct adapter_merge merge;
    bool is_base_checked;     /* the model at hand was compared with what is recorded */
    struct snapshot snapshot; /* of the merge; empty where there are conflicts */
    struct commit_result result;
    bool is_committed;
};

#define AUTO_MERGING(name) __attribute__((cleanup(merging_release))) struct merging name = {0}
void merging_release(struct merging *merging);

/* Usage errors for what is no strategy, no number, or does not go together. */
MUST_CHECK int
merging_settings(struct merging_settings *out, const struct merging_arguments *arguments);

/* Merge, commit (unless it is a dry run), print. A conflict is printed, and CLI_DIFFERENT. */
MUST_CHECK int merging_run(struct cli *cli, const struct merging_task *task);

/* merging_basis.c: merge_adapter() with the bases and sizes that it needs. */
MUST_CHECK int merging_merge(struct merging *merging);

/* What is recorded of the base model with the merge: of MODEL where --base gave one, else what both
   sides have recorded alike. *has is false where that does not cover every module. */
MUST_CHECK int merging_facts(struct base_facts *out, bool *has, const struct merging *merging);

/* merging_print.c */
/* Set the error of conflicts, or of a residual above the limit: E_CONFLICT; 0 where there is none.
 */
MUST_CHECK int merging_conflict(const struct merging *merging);
/* In words and in JSON. `err`: 0, or the conflict that was set, which becomes part of it. */
MUST_CHECK int merging_print(struct cli *cli, const struct merging *merging, int err);
/* The same fields where nothing was merged: `commit` may be NULL. */
MUST_CHECK int
merging_print_none(struct cli *cli, const struct commit_id *commit, bool fast_forward);

#endif
