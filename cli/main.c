/*
 * vera: find the command, parse its arguments, open the repository, run it, say what went wrong.
 *
 * Exit status: 0 done, 1 failed (or the answer is "no"), 2 called wrongly, 130 interrupted. A
 * signal only sets interrupt_flag; whoever works notices, unwinds and so removes what was half
 * done. That holds for a reader who leaves, too (vera log | head): SIGPIPE unwinds, and ends the
 * program without a word as if it had never been caught.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "cli/help.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "format/file.h"

enum exit_status { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* What stands before the command. */
struct global {
    bool help, version;
    int at; /* where the command's name is; argc where there is none */
};

static void handle_signal(int signal_number)
{
    interrupt_flag = signal_number;
}

/* What the caller had ignored stays ignored (nohup, a job in the background). Without SA_RESTART
   whoever waits wakes up. */
static void catch_signal(int signal_number, bool once)
{
    int flags = once ? (int)SA_RESETHAND : 0;
    struct sigaction action = {.sa_handler = handle_signal, .sa_flags = flags}, old;

    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(signal_number, &action, NULL);
}

static void catch_signals(void)
{
    /* A second Ctrl-C finds the default action; every line for a lost reader is a SIGPIPE. */
    catch_signal(SIGINT, true);
    catch_signal(SIGTERM, true);
    catch_signal(SIGHUP, true);
    catch_signal(SIGPIPE, false);
}

/* End as if the signal had never been caught. */
static void die_of(int signal_number)
{
    struct sigaction action = {.sa_handler = SIG_DFL};

    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
    raise(signal_number);
}

static int print_overview(void)
{
    help_overview(stdout);
    return 0;
}

static int print_help(const struct command *command)
{
    help_command(stdout, command);
    return 0;
}

static int change_directory(const char *dir)
{
    if (chdir(dir) < 0)
        return file_error(dir);
    return 0;
}

static int parse_global(struct global *out, int argc, char *const *argv)
{
    int err = 0;

    *out = (struct global){.at = 1};
    while (err == 0 && out->at < argc && argv[out->at][0] == '-') {
        const char *argument = argv[out->at++];
        if (strcmp(argument, "-C") == 0 && out->at == argc)
            return cli_usage_error("option '-C' needs a value, DIR");
        if (strcmp(argument, "-C") == 0)
            err = change_directory(argv[out->at++]);
        else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0)
            out->help = true;
        else if (strcmp(argument, "--version") == 0)
            out->version = true;
        else
            return global_option_unknown(argument);
    }
    return err;
}

/* The repository, where the command wants one: cli->store stays NULL where there need not be any.
 */
static int open_store(struct cli *cli, const struct command *command)
{
    const char *vera_repo = getenv("VERA_REPO");
    bool named = vera_repo && vera_repo[0];

    if (command->needs == NEEDS_NOTHING)
        return 0;
    int err = store_open(&cli->store, ".", vera_repo);
    if (err == E_NOTFOUND && command->needs == MAY_USE_STORE && !named)
        return 0;
    return err;
}

static int run_command(const struct arguments *arguments, struct cli_progress *progress)
{
    const struct common_arguments *common = &arguments->common;
    AUTO_STORE(store);
    struct cli cli = {
        .json = common->json,
        .human = common->json ? stderr : stdout,
        .progress = &progress->base,
        .operands = arguments->operands,
        .operand_count = arguments->operand_count,
    };

    progress_want(progress, common->progress, common->no_progress);
    int err = open_store(&cli, arguments->command);
    store = cli.store;
    if (err == 0)
        err = arguments->command->run(&cli, arguments->own);
    progress_clear(&progress->base);
    return err;
}

/* argv begins with the command's name. */
static int parse_and_run(int argc, char *const *argv, struct cli_progress *progress)
{
    const struct command *command = command_find(argv[0]);
    AUTO_ARGUMENTS(arguments);

    if (!command)
        return command_unknown(argv[0]);
    int err = arguments_parse(&arguments, command, argc - 1, argv + 1);
    if (err == 0)
        err = arguments.common.help ? print_help(command) : run_command(&arguments, progress);
    if (err == CLI_USAGE && !error_hint_text())
        err = error_hint(err, "'vera %s --help' tells its options and operands", command->name);
    return err;
}

static int run(int argc, char *const *argv, struct cli_progress *progress)
{
    struct global global;
    int err = parse_global(&global, argc, argv);

    if (err < 0)
        return err;
    if (global.version) {
        puts("vera " VERA_VERSION);
        return 0;
    }
    if (global.at == argc)
        return print_overview();
    if (!global.help)
        return parse_and_run(argc - global.at, argv + global.at, progress);
    const struct command *command = command_find(argv[global.at]);
    return command ? print_help(command) : command_unknown(argv[global.at]);
}

static int exit_status(int err)
{
    if (err == CLI_USAGE)
        return EXIT_USAGE;
    /* Whatever failed first once a signal had come: it was the signal. */
    if (err < 0 && interrupt_flag)
        return EXIT_INTERRUPTED;
    return err == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* Buffers of a payload's part come and go. Kept in the heap they are not given back to the kernel,
   which would clear them each time: an eighth of the time of a large commit. */
static void memory_keep(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

int main(int argc, char **argv)
{
    struct cli_progress progress;
    bool json = argc > 1 && arguments_want_json(argc - 1, argv + 1);

    memory_keep();
    file_claim_standard();
    setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
    catch_signals();
    progress_init(&progress);
    if (argc < 2) {
        help_overview(stderr);
        return EXIT_USAGE;
    }
    int err = run(argc, argv, &progress);
    if (err < 0 && interrupt_flag != SIGPIPE)
        output_error(err, json);
    int finish_err = output_finish();
    if (interrupt_flag == SIGPIPE && (err < 0 || finish_err < 0))
        die_of(SIGPIPE);
    if (err >= 0 && finish_err < 0) {
        err = finish_err;
        output_error(err, false);
    }
    return exit_status(err);
}
