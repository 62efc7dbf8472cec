/* Shared inside model/: what the readers hand to model.c. */
#ifndef GP_MODEL_INTERNAL_H
#define GP_MODEL_INTERNAL_H

#include <jansson.h>

#include "model/gguf.h"
#include "model/model.h"

/* GGUF metadata to a configuration; vocab is left 0: the embedding's
 * rows tell it. */
int gp_config_from_gguf(struct gp_config *c, const struct gp_gguf *g);
/* config.json (generation may be NULL) to a configuration. path is for messages. */
int gp_config_from_json(struct gp_config *c, const json_t *root, const json_t *generation,
			const char *path);
/* What the attention scale is where a file does not say it. */
float gp_config_default_scale(const struct gp_config *c);

/* A regular file of bounded size as a JSON object; -ENOENT when it is not there.
 * flags: jansson's. */
int gp_json_read(json_t **root, const char *path, size_t flags);
/* FOLDER/NAME. */
int gp_json_load(json_t **root, const char *folder, const char *name);

/* Every value as text; long ones are cut. */
void gp_gguf_each_value(const struct gp_gguf *g,
			void (*line)(void *user, const char *key, const char *value), void *user);
void gp_json_each_value(json_t *root,
			void (*line)(void *user, const char *key, const char *value), void *user);

/* ---- --check-numerics (model/checked.c) ---- */
/* The operations of a step, .checking, for a device that is the struct itself: those
 * of .ops on .dev, and each one's output is searched. */
struct gp_checked {
	struct gp_device_ops checking;
	const struct gp_device_ops *ops;
	void *dev;
	const struct gp_batch *batch;
};
void gp_check_operations(struct gp_checked *c, const struct gp_device_ops *ops, void *dev);

#endif
