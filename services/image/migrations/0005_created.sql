-- Pages of all images, which are in this order unless something else is asked for.
CREATE INDEX image_created ON image (created_at, id);
