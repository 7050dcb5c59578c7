// Android Gradle plugin 8.9 is the first that knows API 36; it needs Gradle 8.11.1 or newer.
plugins {
    id("com.android.application") version "8.9.3" apply false
    id("org.jetbrains.kotlin.android") version "2.1.21" apply false
    id("org.jetbrains.kotlin.plugin.compose") version "2.1.21" apply false
}
