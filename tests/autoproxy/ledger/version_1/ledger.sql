BEGIN TRANSACTION;
CREATE TABLE evaluations (
	"key" VARCHAR(32) NOT NULL, 
	protocol VARCHAR(32) NOT NULL, 
	fidelity DOUBLE NOT NULL, 
	text TEXT NOT NULL, 
	identity VARCHAR(64), 
	value DOUBLE, 
	details JSON, 
	reason TEXT, 
	seconds DOUBLE NOT NULL, 
	recorded VARCHAR(32) NOT NULL, 
	PRIMARY KEY ("key", protocol, fidelity)
);
INSERT INTO "evaluations" VALUES('k','66552dd47b4a2e50ab7bbc71d5abf3bf',1.0,'abs(W)',NULL,0.5,'{"perplexity": "inf"}',NULL,2.0,'2026-11-21T16:32:49.548566+00:00');
INSERT INTO "evaluations" VALUES('b','66552dd47b4a2e50ab7bbc71d5abf3bf',1.0,'W',NULL,NULL,'null','not finite',0.0,'2026-11-21T16:32:49.555352+00:00');
CREATE TABLE events (
	run VARCHAR(120) NOT NULL, 
	slot INTEGER NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	text TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	parents JSON NOT NULL, 
	fate VARCHAR(16) NOT NULL, 
	rule TEXT, 
	reason TEXT, 
	fidelity DOUBLE, 
	value DOUBLE, 
	complexity INTEGER NOT NULL, 
	generation INTEGER NOT NULL, 
	PRIMARY KEY (run, slot)
);
INSERT INTO "events" VALUES('found',0,'k','abs(W)','seed','[]','measured',NULL,NULL,1.0,0.5,2,0);
CREATE TABLE protocols (
	protocol VARCHAR(32) NOT NULL, 
	content JSON NOT NULL, 
	PRIMARY KEY (protocol)
);
INSERT INTO "protocols" VALUES('66552dd47b4a2e50ab7bbc71d5abf3bf','{"model": "starter", "model_hash": "00000000000000000000000000000000", "condition": "50%", "group": "row", "mode": "oneshot-dense", "text": "report", "tokens": 8192, "length": 512, "calibration": "pydoc"}');
INSERT INTO "protocols" VALUES('6a9afaa9f4d3e38920eda79016e6fcd2','{"model": "starter", "model_hash": "00000000000000000000000000000000", "condition": "2:4", "group": "row", "mode": "oneshot-dense", "text": "report", "tokens": 8192, "length": 512, "calibration": "pydoc"}');
CREATE TABLE reports (
	number INTEGER NOT NULL, 
	run VARCHAR(120) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	name TEXT NOT NULL, 
	text TEXT NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	complexity INTEGER NOT NULL, 
	seed BIGINT NOT NULL, 
	perplexity DOUBLE NOT NULL, 
	kl DOUBLE NOT NULL, 
	protocol VARCHAR(32) NOT NULL, 
	recorded VARCHAR(32) NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (run, role, name, "key", seed, protocol)
);
INSERT INTO "reports" VALUES(1,'','dense','dense','','',0,0,9.43333333333333357018e+00,0.0,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.584549+00:00');
INSERT INTO "reports" VALUES(2,'','baseline','wanda','f(wanda)','wanda',4,0,20.1,3.00000000000000044408e-01,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.597063+00:00');
INSERT INTO "reports" VALUES(3,'','baseline','wanda','f(wanda)','wanda',4,1,22.7,3.33333333333333314829e-01,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.605966+00:00');
INSERT INTO "reports" VALUES(4,'','baseline','ruins','noise','n',1,0,9e999,15.799,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.607858+00:00');
INSERT INTO "reports" VALUES(5,'found','discovered','found','f(found)','found',9,0,18.0,0.2,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.609607+00:00');
INSERT INTO "reports" VALUES(6,'found','discovered','found','f(found)','found',9,1,20.9,0.21,'66552dd47b4a2e50ab7bbc71d5abf3bf','2026-11-21T16:32:49.620017+00:00');
INSERT INTO "reports" VALUES(7,'','baseline','wanda','f(wanda)','wanda',4,0,134994321.896,2.0,'6a9afaa9f4d3e38920eda79016e6fcd2','2026-11-21T16:32:49.621898+00:00');
INSERT INTO "reports" VALUES(8,'','baseline','magnitude','f(magnitude)','magnitude',2,0,1.0e+20,4.0,'6a9afaa9f4d3e38920eda79016e6fcd2','2026-11-21T16:32:49.632383+00:00');
INSERT INTO "reports" VALUES(9,'','dense','dense','','',0,0,9.43333333333333357018e+00,0.0,'6a9afaa9f4d3e38920eda79016e6fcd2','2026-11-21T16:32:49.634180+00:00');
CREATE TABLE runs (
	run VARCHAR(120) NOT NULL, 
	seed BIGINT NOT NULL, 
	space TEXT NOT NULL, 
	evaluator TEXT NOT NULL, 
	config JSON NOT NULL, 
	protocol VARCHAR(32) NOT NULL, 
	manifest JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	seconds DOUBLE NOT NULL, 
	summary JSON, 
	recorded VARCHAR(32) NOT NULL, 
	PRIMARY KEY (run)
);
INSERT INTO "runs" VALUES('found',0,'s','pruning','{"a": 1}','66552dd47b4a2e50ab7bbc71d5abf3bf','{"v": 1}','done',1.5,'null','2026-11-21T16:32:49.572894+00:00');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
COMMIT;
