/* What git's configuration says of a branch: branch.<name>.remote, branch.<name>.merge and others.
 */
#ifndef STORE_BRANCH_CONFIG_H
#define STORE_BRANCH_CONFIG_H

#include "store/internal.h"

/* Give `to` the settings that `from` has in the repository's own file. */
MUST_CHECK int branch_config_copy(struct store *store, const char *from, const char *to);
MUST_CHECK int branch_config_delete(struct store *store, const char *name);

/* A section of the repository's own file: "branch.main", "remote.origin". Set one key, to this
   value alone; delete all that is in it. */
MUST_CHECK int
config_section_set(struct store *store, const char *section, const char *key, const char *value);
MUST_CHECK int config_section_delete(struct store *store, const char *section);

#endif
