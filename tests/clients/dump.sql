-- A schema with what dumps have trouble with. Statements end with ;; (bodies have ; inside).
CREATE TABLE author (
  id INT UNSIGNED PRIMARY KEY AUTO_INCREMENT,
  name VARCHAR(80) NOT NULL COMMENT 'it''s a "name"',
  born DATE,
  facts JSON,
  picture LONGBLOB,
  upper_name VARCHAR(80) GENERATED ALWAYS AS (UPPER(name)) VIRTUAL,
  initial CHAR(1) GENERATED ALWAYS AS (LEFT(name, 1)) STORED,
  kind ENUM('a', 'ö', 'c,d') DEFAULT 'ö',
  tags SET('x', 'y', 'z'),
  bits BIT(12),
  price DECIMAL(30, 10) DEFAULT 0.5,
  made TIMESTAMP(6) NOT NULL DEFAULT '2026-01-01 00:00:00',
  UNIQUE KEY by_name (name),
  KEY by_born (born DESC),
  FULLTEXT KEY words (name)
) CHARACTER SET utf8mb4 COMMENT 'Ω 漢字';;
CREATE TABLE book (
  id BIGINT PRIMARY KEY AUTO_INCREMENT,
  author_id INT UNSIGNED NOT NULL,
  title TEXT,
  CONSTRAINT of_author FOREIGN KEY (author_id) REFERENCES author (id) ON DELETE CASCADE,
  CONSTRAINT has_title CHECK (title <> '')
);;
CREATE TABLE visit (day DATE NOT NULL, n INT, PRIMARY KEY (day, n))
  PARTITION BY RANGE (YEAR(day)) (
    PARTITION p0 VALUES LESS THAN (2025),
    PARTITION p1 VALUES LESS THAN (2026),
    PARTITION rest VALUES LESS THAN MAXVALUE);;
CREATE TABLE log (at DATETIME(3), text VARCHAR(200));;
CREATE TABLE old (a INT, b TEXT, KEY (a)) ENGINE = MyISAM;;
INSERT INTO old VALUES (1, 'x'), (NULL, ''), (3, NULL);;
CREATE VIEW shelf AS SELECT a.name, COUNT(b.id) AS books FROM author a LEFT JOIN book b ON b.author_id = a.id GROUP BY a.name;;
CREATE VIEW shelf2 AS SELECT name FROM shelf WHERE books > 1;;
CREATE TRIGGER after_book AFTER INSERT ON book FOR EACH ROW BEGIN
  INSERT INTO log VALUES ('2026-01-01', CONCAT('book ', NEW.id, '; ', NEW.title));
END;;
CREATE FUNCTION books_of(whose INT) RETURNS INT READS SQL DATA BEGIN
  DECLARE n INT; SELECT COUNT(*) INTO n FROM book WHERE author_id = whose; RETURN n;
END;;
CREATE PROCEDURE rename_author(IN whose INT, IN new_name VARCHAR(80)) BEGIN
  -- it's; a comment
  UPDATE author SET name = new_name WHERE id = whose;
END;;
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 03:00:00' DISABLE DO DELETE FROM log WHERE text LIKE '%;';;
INSERT INTO author (name, born, facts, picture, kind, tags, bits, price) VALUES
  ('Anna 🐬', '1970-02-28', '{"a": [1, null, "Ω"]}', REPEAT(x'00ff270a5c', 40000), 'c,d', 'x,z', b'101', 12345678901234567890.0123456789),
  ('it''s \\ "quoted"\n%', NULL, NULL, '', 'a', '', NULL, -0.0000000001),
  ('', '0001-01-01', '[]', NULL, 'ö', 'y', b'0', 0);;
INSERT INTO book (author_id, title) VALUES (1, 'One'), (1, 'Two; three'), (2, 'Ω\0');;
INSERT INTO visit SELECT DATE_ADD('2024-12-01', INTERVAL a.id * b.id * 100 DAY), a.id * 10 + b.id FROM author a, book b;;
