/* What a private key is. See ssh_key.h. */
#define _GNU_SOURCE
#include "store/ssh_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "format/file.h"
#include "format/limits.h"

#define OPENSSH_MAGIC  "openssh-key-v1"
#define HEAD_TEXT      400 /* base64 digits: enough for all that stands before the secret part */
#define HEAD_BYTES     300
#define AGENT_SECONDS  10
#define AGENT_LIST     11
#define AGENT_KEYS     12
#define AGENT_TYPE_MAX 64

static bool has(struct bytes text, const char *what)
{
    return memmem(text.data, text.len, what, strlen(what)) != NULL;
}

/* A length in 4 bytes, big end first, and so many bytes. */
static bool string_take(struct bytes *out, struct bytes *rest)
{
    if (rest->len < 4)
        return false;
    uint32_t len = (uint32_t)rest->data[0] << 24 | (uint32_t)rest->data[1] << 16 |
                   (uint32_t)rest->data[2] << 8 | rest->data[3];
    if (len > rest->len - 4)
        return false;
    *out = (struct bytes){rest->data + 4, len};
    rest->data += 4 + len;
    rest->len -= 4 + len;
    return true;
}

static bool is(struct bytes bytes, const char *text)
{
    return bytes_equal(bytes, text_bytes(text));
}

/* OpenSSH's own form: magic, cipher, kdf, its options, a count, the public key, then secrets. */
static bool head_read(struct ssh_key *out, struct bytes head)
{
    struct bytes cipher, kdf, options, key, type;

    if (head.len < sizeof(OPENSSH_MAGIC) ||
        memcmp(head.data, OPENSSH_MAGIC, sizeof(OPENSSH_MAGIC)) != 0)
        return false;
    head.data += sizeof(OPENSSH_MAGIC);
    head.len -= sizeof(OPENSSH_MAGIC);
    if (!string_take(&cipher, &head) || !string_take(&kdf, &head) ||
        !string_take(&options, &head) || head.len < 8)
        return false;
    /* The key may be longer than what was decoded of it: its type is at its start. */
    key = (struct bytes){head.data + 8, head.len - 8};
    if (!string_take(&type, &key))
        return false;
    out->is_encrypted = !is(cipher, "none");
    out->is_rsa = is(type, "ssh-rsa");
    return true;
}

static bool openssh_read(struct ssh_key *out, struct bytes text)
{
    uint8_t digits[HEAD_TEXT], head[HEAD_BYTES];
    size_t count = 0;
    const uint8_t *at = memchr(text.data, '\n', text.len), *end = text.data + text.len;

    for (; at && at < end && count < HEAD_TEXT && *at != '='; at++) {
        if (*at == '-')
            break;
        if (*at != '\n' && *at != '\r')
            digits[count++] = *at;
    }
    count -= count % 4;
    int bytes = EVP_DecodeBlock(head, digits, (int)count);
    bool good = bytes > 0 && head_read(out, (struct bytes){head, (size_t)bytes});
    OPENSSL_cleanse(digits, sizeof(digits));
    OPENSSL_cleanse(head, sizeof(head));
    return good;
}

static void judge(struct ssh_key *out, struct bytes text)
{
    bool good = has(text, "PRIVATE KEY-----\n") || has(text, "PRIVATE KEY-----\r");

    if (good && has(text, "BEGIN OPENSSH PRIVATE KEY"))
        good = openssh_read(out, text);
    else if (has(text, "ENCRYPTED"))
        out->is_encrypted = true;
    if (has(text, "BEGIN RSA PRIVATE KEY"))
        out->is_rsa = true;
    out->why = !good               ? "no private key that can be read"
               : out->is_encrypted ? "it has a passphrase"
                                   : NULL;
    out->is_usable = !out->why;
}

int ssh_key_read(bool *found, struct ssh_key *out, const char *path)
{
    AUTO_BUF(text);

    *out = (struct ssh_key){0};
    *found = path_exists(path);
    if (!*found)
        return 0;
    if (!path_is_private(path)) {
        out->why = "others may read it (chmod 600)";
        return 0;
    }
    int err = file_read(&text, path, LIMIT_SSH_KEY);
    if (err < 0)
        return err;
    judge(out, buf_bytes(&text));
    OPENSSL_cleanse(text.data, text.len);
    return 0;
}

/* The agent: messages are a length in 4 bytes, a type, its fields. */

static bool agent_connect(int *fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = AGENT_SECONDS};

    if (strlen(path) >= sizeof(address.sun_path))
        return false;
    memcpy(address.sun_path, path, strlen(path));
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return false;
    (void)!setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)!setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    return connect(*fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
}

static bool receive(int fd, void *data, size_t len)
{
    return recv(fd, data, len, MSG_WAITALL) == (ssize_t)len;
}

static bool agent_talk(struct buf *answer, int fd)
{
    static const uint8_t question[] = {0, 0, 0, 1, AGENT_LIST};
    uint8_t head[4];

    if (send(fd, question, sizeof(question), MSG_NOSIGNAL) != (ssize_t)sizeof(question) ||
        !receive(fd, head, sizeof(head)))
        return false;
    uint32_t len = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 |
                   head[3];
    if (len < 5 || len > LIMIT_SSH_AGENT || buf_resize(answer, len) < 0)
        return false;
    return receive(fd, answer->data, len) && answer->data[0] == AGENT_KEYS;
}

void ssh_agent_ask(bool *found, struct ssh_agent *out, const char *path)
{
    struct bytes rest, key, comment, type;
    AUTO_BUF(answer);
    AUTO_FD(fd);

    *out = (struct ssh_agent){0};
    *found = agent_connect(&fd, path) && agent_talk(&answer, fd);
    if (!*found)
        return;
    rest = (struct bytes){answer.data + 5, answer.len - 5};
    while (string_take(&key, &rest) && string_take(&comment, &rest)) {
        out->keys++;
        if (string_take(&type, &key) && is(type, "ssh-rsa"))
            out->rsa_keys++;
    }
}
