-- What is used of a provider is summed up out of the index alone.
DROP INDEX allocation_provider;
CREATE INDEX allocation_used ON allocation (provider, class, consumer, used);
