CREATE TABLE aggregate_number (one BIGINT PRIMARY KEY, last BIGINT NOT NULL);
INSERT INTO aggregate_number (one, last) VALUES (1, 0);
