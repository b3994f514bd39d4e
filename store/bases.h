/* Which recipes stand on one basis. */
#ifndef STORE_BASES_H
#define STORE_BASES_H

#include "format/recipe.h"

/* Order of all that a recipe says but its payload: state, digests, shapes, seed, variant. 0: the
   same basis. */
int recipe_basis_compare(const struct recipe *a, const struct recipe *b);

#endif
