/* The parser of the query language, by recursive descent. See expression.h. */
#include "store/expression.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/limits.h"
#include "format/text.h"
#include "store/id_set.h"

#define COLUMNS_BEFORE 40 /* of a long text, shown left of the mark */
#define COLUMNS_SHOWN  74

enum token_kind {
    TOKEN_END,
    TOKEN_WORD,
    TOKEN_STRING,
    TOKEN_COMPARISON,
    TOKEN_OPEN,
    TOKEN_CLOSE,
};

struct token {
    enum token_kind kind;
    struct bytes text; /* in the input; of a string between its quotes */
    size_t at;
};

struct parser {
    struct expression *expression;
    struct bytes input;
    size_t at;          /* behind `token` */
    struct token token; /* the next one to be taken */
    unsigned depth;
};

void expression_release(struct expression *expression)
{
    for (size_t i = 0; i < expression->term_count; i++) {
        free(expression->terms[i].metric);
        free(expression->terms[i].text);
    }
    free(expression->terms);
    free(expression->steps);
    *expression = (struct expression){0};
}

/* Errors */

/* One character of the input: its length, and how it is shown, in one column. */
static size_t character(const char **shown, struct bytes rest)
{
    size_t n = utf8_length(rest);

    *shown = NULL;
    if (n == 1 && strchr("\t\r\n\v\f", rest.data[0]))
        *shown = " ";
    else if (n == 0 || !text_is_plain((struct bytes){rest.data, n}))
        *shown = "?";
    return n ? n : 1;
}

static size_t columns_count(struct bytes text)
{
    const char *shown;
    size_t count = 0;

    for (size_t i = 0; i < text.len; count++)
        i += character(&shown, (struct bytes){text.data + i, text.len - i});
    return count;
}

/* The text's columns [begin, end). */
static int columns_append(struct buf *out, struct bytes text, size_t begin, size_t end)
{
    size_t column = 0;
    int err = 0;

    for (size_t i = 0; err == 0 && i < text.len && column < end; column++) {
        const char *shown;
        size_t n = character(&shown, (struct bytes){text.data + i, text.len - i});
        if (column >= begin)
            err = shown ? buf_append_text(out, shown) : buf_append(out, text.data + i, n);
        i += n;
    }
    return err;
}

/* The text in one line, as much of it as fits, and a mark below its byte `at`. */
static int place_append(int code, struct bytes input, size_t at)
{
    size_t column = columns_count((struct bytes){input.data, at}), total = columns_count(input);
    size_t begin = column > COLUMNS_BEFORE && total > COLUMNS_SHOWN ? column - COLUMNS_BEFORE : 0;
    size_t end = begin + COLUMNS_SHOWN < total ? begin + COLUMNS_SHOWN : total;
    AUTO_BUF(line);
    int err = 0;

    if (begin)
        err = buf_append_text(&line, "...");
    if (err == 0 && (err = columns_append(&line, input, begin, end)) == 0 && end < total)
        err = buf_append_text(&line, "...");
    const char *text = err < 0 ? NULL : buf_text(&line);
    if (!text)
        return error_wrap(E_NOMEM, "query");
    code = error_detail(code, "%s", text);
    return error_detail(code, "%*s^", (int)(column - begin + (begin ? 3 : 0)), "");
}

static int PRINTF_LIKE(3, 4) failed_at(const struct parser *parser, size_t at, const char *fmt, ...)
{
    char message[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    return place_append(error_set(E_INVALID, "query: %s", message), parser->input, at);
}

/* "<expected>, not 'x'", at the next token. */
static int unexpected(const struct parser *parser, const char *expected)
{
    char quoted[TEXT_QUOTE_SIZE];

    if (parser->token.kind == TOKEN_END)
        return failed_at(parser, parser->token.at, "it ends too early: expected %s", expected);
    text_quote(quoted, parser->token.text);
    return failed_at(parser, parser->token.at, "expected %s, not '%s'", expected, quoted);
}

/* Tokens */

static bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_mark(uint8_t c)
{
    return c == '=' || c == '!' || c == '<' || c == '>';
}

static bool is_word(uint8_t c)
{
    return c > ' ' && c != 0x7f && !is_mark(c) && !strchr("()'\"", c);
}

static int string_take(struct parser *parser)
{
    const struct bytes input = parser->input;
    uint8_t quote = input.data[parser->at];
    size_t end = parser->at + 1;

    while (end < input.len && input.data[end] != quote)
        end += input.data[end] == '\\' ? 2 : 1;
    if (end >= input.len)
        return failed_at(parser, parser->at, "this quote has no end");
    parser->token.kind = TOKEN_STRING;
    parser->token.text = (struct bytes){input.data + parser->at + 1, end - parser->at - 1};
    parser->at = end + 1;
    return 0;
}

static void run_take(struct parser *parser, enum token_kind kind, bool (*belongs)(uint8_t c))
{
    const struct bytes input = parser->input;
    size_t begin = parser->at;

    while (parser->at < input.len && belongs(input.data[parser->at]))
        parser->at++;
    parser->token.kind = kind;
    parser->token.text = (struct bytes){input.data + begin, parser->at - begin};
}

static int token_next(struct parser *parser)
{
    const struct bytes input = parser->input;

    while (parser->at < input.len && is_space(input.data[parser->at]))
        parser->at++;
    parser->token = (struct token){.kind = TOKEN_END, .at = parser->at};
    if (parser->at == input.len)
        return 0;
    uint8_t c = input.data[parser->at];
    if (c == '\'' || c == '"')
        return string_take(parser);
    if (c == '(' || c == ')') {
        parser->token.kind = c == '(' ? TOKEN_OPEN : TOKEN_CLOSE;
        parser->token.text = (struct bytes){input.data + parser->at++, 1};
        return 0;
    }
    if (is_mark(c))
        run_take(parser, TOKEN_COMPARISON, is_mark);
    else if (is_word(c))
        run_take(parser, TOKEN_WORD, is_word);
    else
        return failed_at(parser, parser->at, "a control character has no meaning here");
    return 0;
}

static bool is_keyword(const struct parser *parser, const char *word)
{
    return parser->token.kind == TOKEN_WORD && parser->token.text.len == strlen(word) &&
           strncasecmp((const char *)parser->token.text.data, word, strlen(word)) == 0;
}

/* Comparisons */

static int step_add(struct parser *parser, enum step step, size_t term)
{
    struct expression *expression = parser->expression;
    int err = array_grow(
        &expression->steps, &expression->step_capacity, expression->step_count + 1,
        sizeof(*expression->steps)
    );

    if (err == 0)
        expression->steps[expression->step_count++] = (struct expression_step){step, term};
    return err;
}

static int key_take(struct term *term, struct parser *parser)
{
    struct bytes metric, name = parser->token.text;
    char quoted[TEXT_QUOTE_SIZE];

    if (parser->token.kind != TOKEN_WORD)
        return unexpected(parser, "a comparison, as in rank<=256");
    if (!key_parse(&term->key, &metric, name)) {
        text_quote(quoted, name);
        int err = failed_at(parser, parser->token.at, "there is no key '%s'", quoted);
        return key_hint(err, name);
    }
    if (term->key == KEY_METRIC && !(term->metric = bytes_dup(metric)))
        return error_wrap(E_NOMEM, "query");
    return token_next(parser);
}

static int comparison_take(struct term *term, struct parser *parser)
{
    static const struct {
        const char *mark;
        enum comparison comparison;
    } marks[] = {
        {"=", IS_EQUAL},    {"==", IS_EQUAL},  {"!=", IS_NOT_EQUAL}, {"<", IS_LESS},
        {"<=", IS_AT_MOST}, {">", IS_GREATER}, {">=", IS_AT_LEAST},
    };

    if (parser->token.kind != TOKEN_COMPARISON)
        return unexpected(parser, "=, !=, <, <=, > or >= behind the key");
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (!bytes_equal(parser->token.text, text_bytes(marks[i].mark)))
            continue;
        term->comparison = marks[i].comparison;
        if (key_type(term->key) == TYPE_TEXT && term->comparison > IS_NOT_EQUAL)
            return failed_at(
                parser, parser->token.at, "'%s' can be compared by = and != only",
                key_name(term->key)
            );
        return token_next(parser);
    }
    return unexpected(parser, "=, !=, <, <=, > or >=");
}

/* A backslash stands before a quote, or another backslash, that is meant as such. */
static int text_take(struct term *term, const struct token *token)
{
    AUTO_BUF(text);
    int err = 0;

    for (size_t i = 0; err == 0 && i < token->text.len; i++) {
        if (token->kind == TOKEN_STRING && token->text.data[i] == '\\')
            i++;
        err = buf_append_byte(&text, token->text.data[i]);
    }
    if (err == 0 && !(term->text = bytes_dup(buf_bytes(&text))))
        err = error_wrap(E_NOMEM, "query");
    return err;
}

static int value_take(struct term *term, struct parser *parser)
{
    const struct token *token = &parser->token;
    bool is_word = token->kind == TOKEN_WORD;
    int err = 0;

    switch (key_type(term->key)) {
    case TYPE_NUMBER:
        if (!is_word || !number_parse(&term->number, token->text))
            return unexpected(parser, "a number");
        break;
    case TYPE_DATE:
        if ((!is_word && token->kind != TOKEN_STRING) ||
            !date_parse(&term->begin, &term->end, token->text))
            return unexpected(parser, "a date, as in 2026-11-01 or 2026-11-01T12:00");
        break;
    case TYPE_TEXT:
        if (!is_word && token->kind != TOKEN_STRING)
            return unexpected(parser, "a text");
        err = text_take(term, token);
        break;
    }
    return err < 0 ? err : token_next(parser);
}

static int comparison_parse(struct parser *parser)
{
    struct expression *expression = parser->expression;
    size_t index = expression->term_count;
    int err = array_grow(
        &expression->terms, &expression->term_capacity, index + 1, sizeof(*expression->terms)
    );

    if (err < 0)
        return err;
    expression->term_count++;
    struct term *term = &expression->terms[index];
    if ((err = key_take(term, parser)) < 0 || (err = comparison_take(term, parser)) < 0 ||
        (err = value_take(term, parser)) < 0)
        return err;
    return step_add(parser, STEP_TERM, index);
}

/* The rest of the grammar */

static int or_parse(struct parser *parser);

static int deeper(struct parser *parser)
{
    if (++parser->depth <= LIMIT_QUERY_DEPTH)
        return 0;
    int err = error_set(
        E_LIMIT, "query: more than %d parentheses and nots in one another", LIMIT_QUERY_DEPTH
    );
    return place_append(err, parser->input, parser->token.at);
}

static int parentheses_parse(struct parser *parser)
{
    size_t open = parser->token.at;
    int err;

    if ((err = deeper(parser)) < 0 || (err = token_next(parser)) < 0 ||
        (err = or_parse(parser)) < 0)
        return err;
    if (parser->token.kind == TOKEN_END)
        return failed_at(parser, open, "this parenthesis is not closed");
    if (parser->token.kind != TOKEN_CLOSE)
        return unexpected(parser, "'and', 'or' or ')'");
    parser->depth--;
    return token_next(parser);
}

static int not_parse(struct parser *parser)
{
    int err;

    if (parser->token.kind == TOKEN_OPEN)
        return parentheses_parse(parser);
    if (!is_keyword(parser, "not"))
        return comparison_parse(parser);
    if ((err = deeper(parser)) < 0 || (err = token_next(parser)) < 0 ||
        (err = not_parse(parser)) < 0)
        return err;
    parser->depth--;
    return step_add(parser, STEP_NOT, 0);
}

static int chain_parse(
    struct parser *parser, const char *word, enum step step, int (*operand)(struct parser *parser)
)
{
    int err = operand(parser);

    while (err == 0 && is_keyword(parser, word)) {
        if ((err = token_next(parser)) == 0 && (err = operand(parser)) == 0)
            err = step_add(parser, step, 0);
    }
    return err;
}

static int and_parse(struct parser *parser)
{
    return chain_parse(parser, "and", STEP_AND, not_parse);
}

static int or_parse(struct parser *parser)
{
    return chain_parse(parser, "or", STEP_OR, and_parse);
}

static int whole_parse(struct parser *parser)
{
    int err = token_next(parser);

    if (err == 0)
        err = or_parse(parser);
    if (err < 0 || parser->token.kind == TOKEN_END)
        return err;
    if (parser->token.kind == TOKEN_CLOSE)
        return failed_at(parser, parser->token.at, "this parenthesis closes nothing");
    return unexpected(parser, "'and' or 'or'");
}

int expression_parse(struct expression *out, const char *text)
{
    struct expression expression = {0};
    struct parser parser = {.expression = &expression, .input = text_bytes(text)};

    if (parser.input.len > LIMIT_QUERY)
        return error_set(
            E_LIMIT, "query: an expression of %zu bytes, at most %d are allowed", parser.input.len,
            (int)LIMIT_QUERY
        );
    int err = whole_parse(&parser);
    if (err < 0) {
        expression_release(&expression);
        return err;
    }
    *out = expression;
    return 0;
}

bool comparison_holds(enum comparison comparison, int order)
{
    switch (comparison) {
    case IS_EQUAL:
        return order == 0;
    case IS_NOT_EQUAL:
        return order != 0;
    case IS_LESS:
        return order < 0;
    case IS_AT_MOST:
        return order <= 0;
    case IS_GREATER:
        return order > 0;
    case IS_AT_LEAST:
        return order >= 0;
    }
    return false;
}
