/* All commands, in the order of the help: from the first day's to the seldom ones. */
#include "cli/cli.h"

const struct command *const commands[] = {
    // clang-format off
    &command_init,
    &command_clone,
    &command_commit,
    &command_show,
    &command_log,
    &command_query,
    &command_diff,
    &command_export,
    &command_publish,
    &command_apply,
    &command_verify,
    &command_swap,
    &command_branch,
    &command_switch,
    &command_tag,
    &command_reset,
    &command_merge,
    &command_revert,
    &command_cherry_pick,
    &command_fetch,
    &command_pull,
    &command_push,
    &command_remote,
    &command_basis,
    &command_stats,
    &command_fsck,
    &command_gc,
    &command_prune,
    &command_reindex,
    &command_completion,
    &command_help,
    NULL,
    // clang-format on
};
