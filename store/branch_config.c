#include "store/branch_config.h"

#include <stdlib.h>
#include <string.h>

#include "store/id_set.h"

struct setting {
    char *key, *value; /* the key's last part */
};

struct settings {
    struct setting *list;
    size_t count, capacity;
};

static void settings_release(struct settings *settings)
{
    for (size_t i = 0; i < settings->count; i++) {
        free(settings->list[i].key);
        free(settings->list[i].value);
    }
    free(settings->list);
}

#define AUTO_SETTINGS(name) __attribute__((cleanup(settings_release))) struct settings name = {0}

struct setting_visit {
    struct settings *settings;
    const char *prefix; /* "branch.<name>.", "remote.<name>." */
    int err;
};

static int setting_visit(const git_config_entry *entry, void *context)
{
    struct setting_visit *visit = context;
    struct settings *settings = visit->settings;

    if (strncmp(entry->name, visit->prefix, strlen(visit->prefix)) != 0 ||
        strchr(entry->name + strlen(visit->prefix), '.'))
        return 0;
    visit->err = array_grow(
        &settings->list, &settings->capacity, settings->count + 1, sizeof(*settings->list)
    );
    if (visit->err < 0)
        return GIT_EUSER;
    struct setting *setting = &settings->list[settings->count++];
    setting->key = bytes_dup(text_bytes(entry->name + strlen(visit->prefix)));
    setting->value = bytes_dup(text_bytes(entry->value ? entry->value : "true"));
    if (!setting->key || !setting->value)
        visit->err = error_wrap(E_NOMEM, "config");
    return visit->err < 0 ? GIT_EUSER : 0;
}

/* The repository's own file, never the person's. */
static int config_open(git_config **out, struct store *store)
{
    AUTO_GIT(git_config, all);

    int err = git_repository_config(&all, store->repo);
    if (err == 0)
        err = git_config_open_level(out, all, GIT_CONFIG_LEVEL_LOCAL);
    return err < 0 ? git_failed(err, "config") : 0;
}

static int settings_read(struct settings *settings, git_config *config, const char *prefix)
{
    struct setting_visit visit = {.settings = settings, .prefix = prefix};

    int err = git_config_foreach(config, setting_visit, &visit);
    if (visit.err < 0)
        return visit.err;
    return err < 0 ? git_failed(err, "config") : 0;
}

static int key_make(struct buf *out, const char *section, const char *key)
{
    return buf_printf(out, "%s.%s", section, key);
}

static int section_of(struct buf *out, const char *branch)
{
    return buf_printf(out, "branch.%s", branch);
}

/* Behind those that are there: git allows several of one key. */
static int setting_add(git_config *config, const char *section, const struct setting *setting)
{
    AUTO_BUF(key);

    int err = key_make(&key, section, setting->key);
    if (err < 0)
        return err;
    err = git_config_set_multivar(config, (const char *)key.data, "^$never", setting->value);
    return err < 0 ? git_failed(err, "config: %s", (const char *)key.data) : 0;
}

static int setting_delete(git_config *config, const char *section, const struct setting *setting)
{
    AUTO_BUF(key);

    int err = key_make(&key, section, setting->key);
    if (err < 0)
        return err;
    err = git_config_delete_multivar(config, (const char *)key.data, ".*");
    return err < 0 && err != GIT_ENOTFOUND ? git_failed(err, "config: %s", (const char *)key.data)
                                           : 0;
}

static int settings_of(
    struct settings *settings, git_config **config, struct store *store, const char *section
)
{
    AUTO_BUF(prefix);

    int err = key_make(&prefix, section, "");
    if (err < 0 || (err = config_open(config, store)) < 0)
        return err;
    return settings_read(settings, *config, (const char *)prefix.data);
}

int config_section_delete(struct store *store, const char *section)
{
    AUTO_SETTINGS(settings);
    AUTO_GIT(git_config, config);

    int err = settings_of(&settings, &config, store, section);
    for (size_t i = 0; err == 0 && i < settings.count; i++)
        err = setting_delete(config, section, &settings.list[i]);
    return err;
}

int config_section_set(struct store *store, const char *section, const char *key, const char *value)
{
    AUTO_GIT(git_config, config);
    AUTO_BUF(name);
    int err;

    if ((err = config_open(&config, store)) < 0 || (err = key_make(&name, section, key)) < 0)
        return err;
    err = git_config_set_string(config, (const char *)name.data, value);
    return err < 0 ? git_failed(err, "config: %s", (const char *)name.data) : 0;
}

int branch_config_copy(struct store *store, const char *from, const char *to)
{
    AUTO_SETTINGS(settings);
    AUTO_GIT(git_config, config);
    AUTO_BUF(from_section);
    AUTO_BUF(to_section);
    int err;

    if ((err = section_of(&from_section, from)) < 0 || (err = section_of(&to_section, to)) < 0)
        return err;
    err = settings_of(&settings, &config, store, (const char *)from_section.data);
    for (size_t i = 0; err == 0 && i < settings.count; i++)
        err = setting_add(config, (const char *)to_section.data, &settings.list[i]);
    return err;
}

int branch_config_delete(struct store *store, const char *name)
{
    AUTO_BUF(section);

    int err = section_of(&section, name);
    return err < 0 ? err : config_section_delete(store, (const char *)section.data);
}
