CREATE TABLE products (
    id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, description TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0), stock INTEGER NOT NULL CHECK (stock >= 0), picture TEXT
);
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, phone TEXT
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id),
    total_cents INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('reserved', 'shipped')),
    created_at INTEGER NOT NULL, shipped_at INTEGER
);
CREATE INDEX orders_by_status ON orders (status);
CREATE TABLE order_lines (
    order_id INTEGER NOT NULL REFERENCES orders (id), product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0), price_cents INTEGER NOT NULL,
    PRIMARY KEY (order_id, product_id)
) WITHOUT ROWID;
-- Double entry: what an order adds to one account it takes from another, so the sum of all amounts is always 0.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id),
    account TEXT NOT NULL, amount_cents INTEGER NOT NULL
);
PRAGMA user_version = 1;
