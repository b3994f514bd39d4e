/*
 * Writes the manual page vera(1), in the man(7) language, to standard output: a program of the
 * build, not installed. What it says of commands and options is in their tables; only the chapters
 * that belong to no command are words of its own.
 */
#include <string.h>

#include "cli/help.h"
#include "cli/options.h"

static const char chapters_before[] =
    ".SH DESCRIPTION\n"
    "verastore keeps every version of every VeRA adapter, in the few bytes that are really its "
    "own,\n"
    "and puts any of them onto a model, exactly.\n"
    "A version is a directory as PEFT writes it; it comes back byte for byte.\n"
    "The random matrices that all adapters of a kind share are dropped for their seed only after\n"
    "they were drawn again and compared bit for bit.\n"
    ".PP\n"
    "The repository is\n"
    ".IR $VERA_REPO ,\n"
    "else the nearest folder\n"
    ".I .vera\n"
    "from the current directory upwards: a bare git repository.\n"
    ".PP\n"
    "Options and operands may be mixed;\n"
    ".B \\-\\-\n"
    "ends the options.\n"
    "The value of an option is the next argument, or follows it after\n"
    ".B =\n"
    "or after its letter.\n"
    "Letters of options without a value may be put together.\n"
    "Names are not abbreviated.\n";

static const char chapters_after[] =
    ".SH REVISIONS\n"
    "A version is named by a branch, a tag,\n"
    ".IR remote / branch ,\n"
    ".BR HEAD ,\n"
    "its commit id or a prefix of it (6 digits or more), or its snapshot id as\n"
    ".B sha256:\n"
    "and 6 to 64 digits (where several commits have it, the newest).\n"
    "After each may stand\n"
    ".BI \\(ti n\n"
    "(n versions back),\n"
    ".B \\(ha\n"
    "(its parent) and\n"
    ".BI @{ n }\n"
    "(what the branch was n changes ago).\n"
    ".PP\n"
    "Where a command reads a version, an adapter directory may stand instead.\n"
    "A revision goes before a directory of that name;\n"
    ".BI ./ NAME\n"
    "is always the directory.\n"
    ".SH JSON\n"
    "With\n"
    ".B \\-\\-json\n"
    "the result is one JSON object on standard output, in a list one for each line, and the lines "
    "for\n"
    "people go to standard error.\n"
    "A failure prints\n"
    ".PP\n"
    ".RS 4\n"
    ".EX\n"
    "{\"error\":{\"code\":\"NOTFOUND\",\"message\":\"...\",\"hint\":\"...\"}}\n"
    ".EE\n"
    ".RE\n"
    ".PP\n"
    "where the hint may be null and the code is one of\n"
    "NOTFOUND, EXISTS, INVALID, CORRUPT, CONFLICT, LIMIT, UNSUPPORTED, IO, NOMEM, DEVICE and\n"
    "INTERRUPTED.\n"
    ".SH EXIT STATUS\n"
    ".TP\n"
    ".B 0\n"
    "Done.\n"
    ".TP\n"
    ".B 1\n"
    "Failed, or the answer is no: damage was found, something differs.\n"
    ".TP\n"
    ".B 2\n"
    "Called wrongly.\n"
    ".TP\n"
    ".B 130\n"
    "Interrupted; nothing half-written is left.\n"
    ".SH ENVIRONMENT\n"
    ".TP\n"
    ".B VERA_REPO\n"
    "The repository, instead of the nearest\n"
    ".IR .vera .\n"
    ".TP\n"
    ".BR GIT_AUTHOR_NAME \", \" GIT_AUTHOR_EMAIL \", \" GIT_COMMITTER_NAME \", \" "
    "GIT_COMMITTER_EMAIL\n"
    "Who makes a version, as in git;\n"
    "else git\\(aqs configuration says, else the login name.\n"
    ".TP\n"
    ".B VERA_CPU\n"
    ".BR scalar ,\n"
    ".BR neon ,\n"
    ".B avx2\n"
    "or\n"
    ".BR avx512 :\n"
    "use no newer instructions than these.\n"
    "The results are the same bits.\n"
    ".TP\n"
    ".B VERA_TOKEN\n"
    "A token that is sent as the password to an https remote.\n"
    ".TP\n"
    ".B VERA_RETRIES\n"
    "How often a fetch whose connection was lost is tried again: 0 to 9 (3).\n"
    ".SH FILES\n"
    ".TP\n"
    ".I .vera\n"
    "The repository, a bare git repository.\n"
    ".TP\n"
    ".I .veraignore\n"
    "In an adapter directory: which files a version takes, in the syntax of\n"
    ".BR gitignore (5).\n"
    ".SH SEE ALSO\n"
    ".BR git (1)\n";

static void print_character(uint32_t code)
{
    /* What troff would read as a command, or print as a typographic sign. */
    static const struct {
        char character;
        const char *name;
    } marks[] = {{'\\', "\\e"},  {'-', "\\-"},   {'\'', "\\(aq"},
                 {'`', "\\(ga"}, {'^', "\\(ha"}, {'~', "\\(ti"}};

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (code == (uint32_t)marks[i].character) {
            fputs(marks[i].name, stdout);
            return;
        }
    }
    if (code < 0x80)
        putchar((int)code);
    else
        printf("\\[u%04X]", (unsigned)code);
}

/* UTF-8 as it is, whatever it means to troff; an end of line is a space. */
static void print_text(struct bytes text)
{
    for (size_t i = 0; i < text.len;) {
        size_t n = utf8_length((struct bytes){text.data + i, text.len - i});
        uint32_t code = n > 1 ? text.data[i] & (0x7fU >> n) : text.data[i];
        for (size_t k = 1; k < n; k++)
            code = code << 6 | (text.data[i + k] & 0x3f);
        print_character(code == '\n' ? ' ' : code);
        i += n ? n : 1;
    }
}

/* A line of text must not be taken for a command. */
static void print_line(struct bytes line)
{
    fputs("\\&", stdout);
    print_text(line);
    putchar('\n');
}

static void print_verbatim(const char *text, size_t len)
{
    const char *end = text + len;

    puts(".PP\n.RS 4\n.EX");
    while (text < end) {
        struct bytes line = help_line(&text);
        print_line(line);
    }
    puts(".EE\n.RE");
}

static void print_details(const char *details)
{
    struct bytes paragraph;

    while ((paragraph = help_paragraph(&details)).data) {
        if (paragraph.data[0] == ' ') {
            print_verbatim((const char *)paragraph.data, paragraph.len);
            continue;
        }
        puts(".PP");
        print_line(paragraph);
    }
}

static void print_option(const struct option *option)
{
    fputs(".TP\n\\fB", stdout);
    if (option->letter)
        printf("\\-%c", option->letter);
    if (option->letter && option->name[0])
        fputs("\\fR, \\fB", stdout);
    if (option->name[0]) {
        fputs("\\-\\-", stdout);
        print_text(text_bytes(option->name));
    }
    fputs("\\fR", stdout);
    if (option->value) {
        fputs(" \\fI", stdout);
        print_text(text_bytes(option->value));
        fputs("\\fR", stdout);
    }
    putchar('\n');
    print_line(text_bytes(option->help));
}

static void print_usage(const struct command *command)
{
    const struct operand *operand;

    printf("\\fBvera %s\\fR [\\fIOPTION\\fR]...", command->name);
    for (size_t i = 0; (operand = command_operand(command, i)); i++) {
        printf(" %s\\fI", operand->optional ? "[" : "");
        print_text(text_bytes(operand->name));
        printf("\\fR%s", operand->repeated ? "..." : "");
    }
    for (size_t i = 0; (operand = command_operand(command, i)); i++)
        if (operand->optional)
            putchar(']');
    putchar('\n');
}

static void print_command(const struct command *command)
{
    const struct operand *operand;
    const struct option *option;

    printf(".SS vera %s\n", command->name);
    print_usage(command);
    puts(".PP");
    print_text(text_bytes(command->summary));
    puts(".");
    if (command->details)
        print_details(command->details);
    for (size_t i = 0; (operand = command_operand(command, i)); i++) {
        fputs(".TP\n\\fI", stdout);
        print_text(text_bytes(operand->name));
        puts("\\fR");
        print_line(text_bytes(operand->help));
    }
    /* The common options stand in a chapter of their own. */
    for (size_t i = 0; command->options && command->options[i].name; i++) {
        option = &command->options[i];
        print_option(option);
    }
    if (command->examples)
        print_verbatim(command->examples, strlen(command->examples));
}

int main(void)
{
    const struct option *option;

    printf(".TH VERA 1 \"\" \"verastore %s\" \"User Commands\"\n", VERA_VERSION);
    puts(".SH NAME\nvera \\- versions of VeRA adapters: store them, and put them onto a model");
    puts(
        ".SH SYNOPSIS\n\\fBvera\\fR [\\fB\\-C\\fR \\fIDIR\\fR] \\fICOMMAND\\fR [\\fIOPTION\\fR]... "
        "[\\fIOPERAND\\fR]..."
    );
    fputs(chapters_before, stdout);
    puts(".SH OPTIONS\nBefore the command:");
    for (option = global_options; option->name; option++)
        print_option(option);
    puts(".PP\nAfter every command:");
    for (size_t i = 0; (option = common_option(i)); i++)
        print_option(option);
    puts(".SH COMMANDS");
    for (size_t i = 0; commands[i]; i++)
        print_command(commands[i]);
    fputs(chapters_after, stdout);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
